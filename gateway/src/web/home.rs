//! The first page: who used most, and how the log fares.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};
use protocol::binding::Holding;
use protocol::name::Address;
use protocol::record::Source;
use serde::Deserialize;

use super::format::{self, count, lines, source_label, time, tokens};
use super::layout::Page;
use super::{sentinel_line, visited};
use crate::api::Api;
use crate::ledger::{Board, By, Category, Leader, Ledger, Scope, Sort, Stats, Sums, Who, Window};
use crate::reply::ApiError;

/// Rows of a table.
const ROWS: usize = 25;

/// What is asked for, as it stands in the address.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Asked {
    sort: Option<String>,
    days: Option<u32>,
    source: Option<String>,
    model: Option<String>,
    provider: Option<String>,
}

/// What is shown.
#[derive(Clone, Debug, PartialEq)]
struct Filter {
    sort: Sort,
    source: Source,
    over: Over,
}

/// Which records count.
#[derive(Clone, Debug, PartialEq)]
enum Over {
    Ever,
    Days(u32),
    Model(String),
    Provider(String),
}

/// What the ledger says, all at one size.
struct Told {
    window: Option<Window>,
    stats: Stats,
    wallets: Vec<Leader>,
    /// With the wallet that a key is bound to by now.
    keys: Vec<(Leader, Option<Address>)>,
    models: Vec<(Category, Sums)>,
}

/// The leaderboard.
pub(super) async fn home(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(asked) = asked.map_err(|e| ApiError::bad_request(e.body_text()))?;
    let filter = Filter::of(asked)?;
    let today = (api.clock)().day();
    let told = filter.ask(&mut api.sums.write(), today);
    let body = html! {
        h1 { "Leaderboard" }
        p.lead {
            "Who used how many tokens, as their providers counted them. Every number here follows "
            "from signed log entries that anybody can check."
        }
        div #figures data-refresh { (figures(&api, &told.stats, filter.source)) }
        (filter.choices())
        div #board data-refresh { (filter.board(&told)) }
        div.cards {
            section.card #models data-refresh { (filter.models(&told.models)) }
            section.card #providers data-refresh { (filter.providers(&told.models)) }
        }
        (first_steps(&api, &visited(&headers)))
    };
    let about = "Who used how many LLM tokens, from a log that anybody can verify.";
    Ok(Page::new("/", "Leaderboard", about, body).answer(&api, &headers))
}

impl Over {
    fn scope(&self, window: impl FnOnce(u32) -> Window) -> Scope {
        match self {
            Self::Ever => Scope::Ever,
            Self::Days(days) => Scope::Within(window(*days)),
            Self::Model(model) => Scope::Model(model.clone()),
            Self::Provider(provider) => Scope::Provider(provider.clone()),
        }
    }
}

impl Filter {
    fn of(asked: Asked) -> Result<Self, ApiError> {
        let sort = Sort::parse(asked.sort.as_deref().unwrap_or("total"));
        let source = Source::parse(asked.source.as_deref().unwrap_or("proxy"));
        let over = match (asked.model, asked.provider, asked.days) {
            (Some(model), _, _) => Over::Model(model),
            (None, Some(provider), _) => Over::Provider(provider),
            (None, None, Some(days @ (1 | 7 | 30))) => Over::Days(days),
            (None, None, Some(_)) => return Err(ApiError::bad_request("days is 1, 7 or 30")),
            (None, None, None) => Over::Ever,
        };
        let sort = sort
            .ok_or_else(|| ApiError::bad_request("sort is total, input, output, models or days"))?;
        let source = source.ok_or_else(|| ApiError::bad_request("source is proxy or custom"))?;
        Ok(Self { sort, source, over }.settled())
    }

    /// Sorted by the total where what was asked for is not told.
    fn settled(self) -> Self {
        // What is told does not hang on which window it is.
        let scope = self.over.scope(|_| Window { from: 0, to: 0 });
        let told = self.sort.fits(&scope);
        let sort = if told { self.sort } else { Sort::Total };
        Self { sort, ..self }
    }

    fn ask(&self, ledger: &mut Ledger, today: u64) -> Told {
        let scope = self.over.scope(|days| ledger.window(days, today));
        let window = match scope {
            Scope::Within(window) => Some(window),
            _ => None,
        };
        let source = self.source;
        let mut leaders = |by| {
            let scope = scope.clone();
            ledger.leaders(&Board { by, source, scope }, self.sort, ROWS)
        };
        let (wallets, keys) = (leaders(By::Wallet), leaders(By::Key));
        let holder = |leader: Leader| {
            let holding = match leader.who {
                Who::Key(key_id) => ledger.key(&key_id).map(|state| state.holding),
                Who::Wallet(_) => None,
            };
            match holding {
                Some(Holding::Bound { wallet, .. }) => (leader, Some(wallet)),
                _ => (leader, None),
            }
        };
        let mut models = ledger.models(window);
        models.retain(|(category, _)| category.source == source);
        Told {
            window,
            stats: ledger.stats(),
            wallets,
            keys: keys.into_iter().map(holder).collect(),
            models,
        }
    }

    /// Where this is shown.
    fn link(&self) -> String {
        let mut query = Vec::new();
        match &self.over {
            Over::Ever => {}
            Over::Days(days) => query.push(("days", days.to_string())),
            Over::Model(model) => query.push(("model", format::encode(model))),
            Over::Provider(provider) => query.push(("provider", format::encode(provider))),
        }
        if self.sort != Sort::Total {
            query.push(("sort", self.sort.as_str().to_owned()));
        }
        if self.source != Source::Proxy {
            query.push(("source", self.source.as_str().to_owned()));
        }
        let query: Vec<_> = query.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        match query.is_empty() {
            true => "/".to_owned(),
            false => format!("/?{}", query.join("&")),
        }
    }

    fn with(&self, over: Over) -> Self {
        let over = Self {
            over,
            ..self.clone()
        };
        over.settled()
    }

    /// A link to another choice, or the mark of this one.
    fn choice(&self, other: &Self, name: &str) -> Markup {
        let chosen = (self == other).then_some("true");
        html! { a href=(other.link()) aria-current=[chosen] { (name) } }
    }

    fn choices(&self) -> Markup {
        let sorted = |sort| Self {
            sort,
            ..self.clone()
        };
        let seen = |source| Self {
            source,
            ..self.clone()
        };
        html! {
            nav.choices aria-label="Over which time" {
                span { "Over" }
                (self.choice(&self.with(Over::Days(1)), "Today"))
                (self.choice(&self.with(Over::Days(7)), "7 days"))
                (self.choice(&self.with(Over::Days(30)), "30 days"))
                (self.choice(&self.with(Over::Ever), "All time"))
                @if let Over::Model(name) | Over::Provider(name) = &self.over {
                    a href=(self.link()) aria-current="true" { (name) }
                }
            }
            nav.choices aria-label="Sorted by" {
                span { "By" }
                @for (sort, name) in [
                    (Sort::Total, "Total"),
                    (Sort::Input, "Input"),
                    (Sort::Output, "Output"),
                    (Sort::Models, "Models used"),
                    (Sort::Days, "Active days"),
                ] {
                    @if sorted(sort) == sorted(sort).settled() {
                        (self.choice(&sorted(sort), name))
                    }
                }
            }
            nav.choices aria-label="How it was observed" {
                span { "Source" }
                (self.choice(&seen(Source::Proxy), "Configured providers"))
                (self.choice(&seen(Source::Custom), "Hosts named by clients"))
            }
        }
    }

    /// What the numbers are of.
    fn meaning(&self, window: Option<Window>) -> Markup {
        html! {
            (source_label(self.source)) " "
            @match (&self.over, window) {
                (Over::Model(model), _) => { "with the model " strong { (model) } ", over all time" }
                (Over::Provider(name), _) => { "from " strong { (name) } ", over all time" }
                (_, Some(window)) => { (format::day(window.from)) " to " (format::day(window.to)) ", UTC" }
                (_, None) => { "over all time" }
            }
        }
    }

    fn board(&self, told: &Told) -> Markup {
        let of = self.meaning(told.window);
        let wallets = told.wallets.iter().map(|leader| (leader, None));
        let keys = told.keys.iter().map(|(leader, wallet)| (leader, *wallet));
        html! {
            h2 { "Wallets" }
            @if told.wallets.is_empty() {
                p.muted { "No wallet has bound usage here. " (of) }
            } @else {
                (self.table(html! { "Bound by the wallet's signature. " (of) }, wallets))
            }
            h2 { "Keys" }
            @if told.keys.is_empty() {
                p.muted { "No key has usage here. " (of) }
            } @else {
                (self.table(html! {
                    "Each by the hash of its credential, whether bound to a wallet or not. " (of)
                }, keys))
            }
        }
    }

    fn table<'a>(
        &self,
        caption: Markup,
        rows: impl Iterator<Item = (&'a Leader, Option<Address>)>,
    ) -> Markup {
        let sorted = |sort| (self.sort == sort).then_some("descending");
        let marked = |sort| (self.sort == sort).then_some("sorted");
        let told = |n: Option<u64>| n.map_or_else(|| "–".to_owned(), count);
        html! {
            table.rows {
                caption { (caption) }
                thead {
                    tr {
                        th.n scope="col" { "#" }
                        th scope="col" { "Who" }
                        th.n scope="col" aria-sort=[sorted(Sort::Total)] { "Total" }
                        th.n scope="col" aria-sort=[sorted(Sort::Input)] { "Input" }
                        th.n scope="col" aria-sort=[sorted(Sort::Output)] { "Output" }
                        th.n scope="col" aria-sort=[sorted(Sort::Models)] { "Models" }
                        th.n scope="col" aria-sort=[sorted(Sort::Days)] { "Days" }
                        th.n scope="col" { "Records" }
                    }
                }
                tbody {
                    @for (place, (leader, wallet)) in (1..).zip(rows) {
                        tr {
                            td.n.place { (place) }
                            td.first { (who(leader, wallet)) }
                            td.n class=[marked(Sort::Total)] data-label="Total" { (tokens(leader.sums.total())) }
                            td.n class=[marked(Sort::Input)] data-label="Input" { (tokens(leader.sums.input)) }
                            td.n class=[marked(Sort::Output)] data-label="Output" { (tokens(leader.sums.output)) }
                            td.n class=[marked(Sort::Models)] data-label="Models" { (told(leader.models)) }
                            td.n class=[marked(Sort::Days)] data-label="Days" { (told(leader.days)) }
                            td.n data-label="Records" { (count(leader.sums.records)) }
                        }
                    }
                }
            }
        }
    }

    fn models(&self, models: &[(Category, Sums)]) -> Markup {
        let most = models.first().map_or(0, |(_, sums)| sums.total());
        html! {
            h2 { "Models" }
            (shares("Model", most, models.iter().take(ROWS).map(|(category, sums)| {
                let name = category.model.as_ref().map(|model| model.as_str());
                let over = self.with(Over::Model(name.unwrap_or_default().to_owned()));
                let name = html! {
                    a href=(over.link()) { (name.unwrap_or("(none named)")) } " "
                    span.muted.small { (category.provider) }
                };
                (name, *sums)
            })))
        }
    }

    fn providers(&self, models: &[(Category, Sums)]) -> Markup {
        let mut sums = BTreeMap::<_, Sums>::new();
        for (category, more) in models {
            sums.entry(&category.provider).or_default().add(more);
        }
        let mut rows: Vec<_> = sums.into_iter().collect();
        rows.sort_by_key(|(_, sums)| std::cmp::Reverse(sums.total()));
        let most = rows.first().map_or(0, |(_, sums)| sums.total());
        html! {
            h2 { "Providers" }
            (shares("Provider", most, rows.into_iter().take(ROWS).map(|(provider, sums)| {
                let over = self.with(Over::Provider(provider.to_string()));
                (html! { a href=(over.link()) { (provider) } }, sums)
            })))
        }
    }
}

/// Names with their tokens, and bars against the first.
fn shares(what: &str, most: u64, rows: impl Iterator<Item = (Markup, Sums)>) -> Markup {
    html! {
        table.rows.shares {
            caption.quiet { (what) "s by tokens" }
            thead { tr { th scope="col" { (what) } th.n scope="col" { "Tokens" } th.n scope="col" { "Records" } } }
            tbody {
                @for (name, sums) in rows {
                    tr {
                        td.first { (name) (format::bar(sums.total(), most)) }
                        td.n data-label="Tokens" { (tokens(sums.total())) }
                        td.n data-label="Records" { (count(sums.records)) }
                    }
                }
            }
        }
    }
}

/// Whose row it is, with what is known of that.
fn who(leader: &Leader, wallet: Option<Address>) -> Markup {
    match leader.who {
        Who::Wallet(wallet) => html! {
            a href=(format!("/wallet/{wallet}")) { (format::address(&wallet)) } " "
            span.label.bound { "bound" }
        },
        Who::Key(key_id) => html! {
            a href=(format!("/key/{key_id}")) { (format::key_id(&key_id)) }
            @if let Some(wallet) = wallet {
                " " span.label.bound { "bound" } " to "
                a href=(format!("/wallet/{wallet}")) { (format::address(&wallet)) }
            }
        },
    }
}

fn figures(api: &Api, stats: &Stats, source: Source) -> Markup {
    let records: u64 = stats.outcomes.iter().map(|(_, records)| records).sum();
    let of_source = stats.sources.iter().find(|(by, _)| *by == source);
    let total = of_source.map_or(0, |(_, sums)| sums.total());
    let published = api.published.borrow().checkpoint.size().get();
    let newest = api.committed.borrow().time;
    let anchor = api.anchors.newest(1).into_iter().next();
    html! {
        dl.figures {
            div { dt { "Records" } dd { (count(records)) } }
            div { dt { "Tokens, " (source.as_str()) } dd { (tokens(total)) } }
            div { dt { "Wallets" } dd { (count(stats.wallets)) } }
            div { dt { "Keys" } dd { (count(stats.users)) } }
            div { dt { "Models" } dd { (count(stats.models)) } }
            div {
                dt { "Last checkpoint" }
                dd { a href="/log" { (count(published)) } small { "entries, the newest of " (time(newest)) } }
            }
            div {
                dt { "Last anchor" }
                dd {
                    @match anchor {
                        Some(anchor) => {
                            a href="/anchors" { (count(anchor.row.size.get())) }
                            small { "on " (anchor.chain) }
                        }
                        None => { a href="/anchors" { "none" } small { "on any chain yet" } }
                    }
                }
            }
            div { dt { "Witnesses" } dd { (witnesses(api)) } }
        }
    }
}

fn witnesses(api: &Api) -> Markup {
    let Some(roster) = &api.witnesses else {
        return html! { a href="/witnesses" { "none" } small { "cosign this log" } };
    };
    let said = match roster.has_quorum() {
        true => "the quorum cosigned",
        false => "the quorum is missing",
    };
    html! { a href="/witnesses" { (roster.list().count()) } small { (said) } }
}

fn first_steps(api: &Api, base: &str) -> Markup {
    let sdks = format!("OPENAI_BASE_URL={base}/openai/v1\nANTHROPIC_BASE_URL={base}/anthropic");
    html! {
        h2 { "Use it" }
        p {
            "Calls are forwarded untouched; prompts, answers and keys are never stored. Your API "
            "key stays your own."
        }
        (lines(&sdks))
        h2 { "Check it" }
        p { "With nothing but the log's key, which is " code.hash { (api.verifier.to_string()) } }
        (lines(&sentinel_line(base, &api.verifier)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_links_that_lead_to_themselves() {
        let given = |sort: &str, days, model: Option<&str>, provider: Option<&str>| Asked {
            sort: Some(sort.to_owned()),
            days,
            source: None,
            model: model.map(str::to_owned),
            provider: provider.map(str::to_owned),
        };
        for (asked, link) in [
            (Asked::default(), "/"),
            (given("total", None, None, None), "/"),
            (given("output", Some(7), None, None), "/?days=7&sort=output"),
            (given("days", Some(30), None, None), "/?days=30&sort=days"),
            // What is not told is not sorted by.
            (given("models", Some(1), None, None), "/?days=1"),
            (
                given("days", None, Some("a&b <i>"), None),
                "/?model=a%26b%20%3Ci%3E",
            ),
            (
                given("models", None, None, Some("x")),
                "/?provider=x&sort=models",
            ),
        ] {
            let filter = Filter::of(asked).expect("sensible");
            assert_eq!(filter.link(), link);
        }
        assert!(Filter::of(given("most", None, None, None)).is_err());
        assert!(Filter::of(given("total", Some(0), None, None)).is_err());
    }

    #[test]
    fn names_are_no_markup() {
        let name = |text| protocol::name::Name::new(text).expect("a name");
        let category = Category {
            source: Source::Proxy,
            provider: name("<b>"),
            model: Some(name("<script>alert(1)</script>")),
        };
        let filter = Filter::of(Asked::default()).expect("plain");
        let models = [(category, Sums::default())];
        for page in [filter.models(&models), filter.providers(&models)] {
            let page = page.into_string();
            assert!(!page.contains("<script") && !page.contains("<b>"), "{page}");
            assert!(page.contains("&lt;b&gt;"), "{page}");
        }
    }
}
