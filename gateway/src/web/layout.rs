//! The one frame around all pages.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};
use maud::{DOCTYPE, Markup, html};

use super::assets;
use super::format::{count, time};
use super::policy::Policy;
use super::visited;
use crate::api::Api;

/// The pages that every page links to: path and name, in their order.
const NAVIGATION: &[(&str, &str)] = &[
    ("/", "Leaderboard"),
    ("/records", "Records"),
    ("/log", "Log"),
    ("/anchors", "Anchors"),
    ("/witnesses", "Witnesses"),
    ("/check", "Check"),
    ("/link", "Link a wallet"),
    ("/setup", "Set up"),
    ("/how", "How it works"),
];

/// The log's interface, for programs.
const INTERFACE: &[(&str, &str)] = &[
    ("/checkpoint", "checkpoint"),
    ("/api/chain", "chain"),
    ("/api/stats", "statistics"),
    ("/openapi.json", "OpenAPI"),
];

/// A page before the frame is around it.
#[derive(Debug)]
pub(super) struct Page<'a> {
    status: StatusCode,
    path: &'a str,
    title: &'a str,
    description: &'a str,
    image: Option<&'a str>,
    scripts: &'a [&'a str],
    policy: Policy,
    body: Markup,
}

impl<'a> Page<'a> {
    /// A page at `path` (from `/`), whose `title` stands in the tab and whose
    /// `description`, a sentence, stands where others link to it. The body
    /// begins with an `h1`.
    pub(super) fn new(path: &'a str, title: &'a str, description: &'a str, body: Markup) -> Self {
        Self {
            status: StatusCode::OK,
            path,
            title,
            description,
            image: None,
            scripts: &[],
            policy: Policy::Reading,
            body,
        }
    }

    /// Answered with another status than 200.
    pub(super) fn status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// With a picture where others link to it, at this path.
    pub(super) fn image(self, path: &'a str) -> Self {
        Self {
            image: Some(path),
            ..self
        }
    }

    /// With these modules (names of assets) beside `app.js`.
    pub(super) fn scripts(self, scripts: &'a [&'a str]) -> Self {
        Self { scripts, ..self }
    }

    /// Under another policy than [`Policy::Reading`].
    pub(super) fn policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// The whole page as it is answered to a request with these headers.
    pub(super) fn answer(self, api: &Api, headers: &HeaderMap) -> Response {
        let page = self.whole(api, &visited(headers)).into_string();
        let kind = [
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            (CACHE_CONTROL, "no-cache"),
        ];
        let guards: [(HeaderName, &str); 5] = self.policy.headers();
        (self.status, kind, guards, page).into_response()
    }

    /// The document; `base` is the address under which the visitor reached us.
    fn whole(&self, api: &Api, base: &str) -> Markup {
        let origin = api.verifier.origin().as_str();
        html! {
            (DOCTYPE)
            html lang="en" {
                (self.head(origin, base))
                body {
                    a.skip href="#main" { "Skip to the content" }
                    (self.header(origin))
                    main #main tabindex="-1" { (self.body) }
                    (footer(api))
                    // What changes is said here, by the script.
                    p.quiet #news role="status" aria-live="polite" {}
                }
            }
        }
    }

    fn head(&self, origin: &str, base: &str) -> Markup {
        let title = format!("{} · {origin}", self.title);
        html! {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                meta name="description" content=(self.description);
                meta property="og:type" content="website";
                meta property="og:site_name" content="Tallystick";
                meta property="og:title" content=(title);
                meta property="og:description" content=(self.description);
                meta property="og:url" content=(format!("{base}{}", self.path));
                @if let Some(image) = self.image {
                    meta property="og:image" content=(format!("{base}{image}"));
                    meta name="twitter:card" content="summary_large_image";
                }
                link rel="icon" type="image/svg+xml" href=(assets::link("icon.svg"));
                link rel="stylesheet" href=(assets::link("style.css"));
                script type="module" src=(assets::link("app.js")) {}
                @for script in self.scripts {
                    script type="module" src=(assets::link(script)) {}
                }
            }
        }
    }

    fn header(&self, origin: &str) -> Markup {
        html! {
            header.top {
                a.brand href="/" {
                    svg viewBox="0 0 16 16" width="20" height="20" aria-hidden="true" {
                        path d="M3 2v12M6 2v12M9 2v12M12 2v12M1 12 15 4" {}
                    }
                    "Tallystick"
                }
                span.origin title="The log's name" { (origin) }
                nav aria-label="Pages" {
                    ul {
                        @for (path, name) in NAVIGATION {
                            @let here = (*path == self.path).then_some("page");
                            li { a href=(path) aria-current=[here] { (name) } }
                        }
                    }
                }
            }
        }
    }
}

fn footer(api: &Api) -> Markup {
    let (size, newest) = {
        let committed = api.committed.borrow();
        (committed.checkpoint.size().get(), committed.time)
    };
    html! {
        footer {
            p {
                data data-live="size" value=(size) { (count(size)) }
                " entries, the newest of "
                (time(newest))
            }
            nav aria-label="For programs" {
                ul {
                    @for (path, name) in INTERFACE {
                        li { a href=(path) { (name) } }
                    }
                }
            }
        }
    }
}
