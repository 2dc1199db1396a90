//! The log itself: its checkpoint, its tree, its tiles.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};
use protocol::index::TreeSize;
use protocol::tile::{MAX_LEVEL, Tile, TileKind, WIDTH};

use super::format::{count, hash, lines, time};
use super::layout::Page;
use super::mountains;
use crate::api::{Api, store_failed};
use crate::reply::ApiError;

/// The newest checkpoint and what is under it.
pub(super) async fn log(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let published = api.published.borrow().clone();
    let head = api.store.head().await;
    let head = head.map_err(store_failed)?;
    let body = html! {
        h1 { "Log" }
        p.lead {
            "The checkpoint is the log's signed promise of its size and its root. Whatever was "
            "under an earlier one is under every later one, or the log is caught."
        }
        div #log data-refresh {
            dl.facts {
                dt { "Name" } dd { (api.verifier.origin().as_str()) }
                dt { "Verifier key" } dd { code.hash { (api.verifier.to_string()) } }
                dt { "Published" } dd { (count(published.checkpoint.size().get())) " entries" }
                dt { "Root of these" } dd { (hash(&published.checkpoint.root())) }
                dt { "Committed" } dd { (count(head.mmr.size().get())) " entries, the newest of " (time(head.time)) }
            }
            h2 { "Checkpoint" }
            (lines(published.note.trim_end()))
            h2 { "Tree" }
            (mountains::picture(&head.mmr))
            (mountains::peaks(&head.mmr))
            h2 { "Tiles" }
            p {
                "Everything is served as files of up to 256 hashes, entries or receipts, as "
                "C2SP's tlog-tiles writes them. Full ones never change."
            }
            (tiles(published.checkpoint.size()))
        }
    };
    let about = "The log's signed checkpoint, its tree and its files.";
    Ok(Page::new("/log", "Log", about, body).answer(&api, &headers))
}

/// How many tiles of each kind there are, and where the first and last are.
fn tiles(size: TreeSize) -> Markup {
    let hashes = (0..=MAX_LEVEL).map(|level| {
        let name = format!("Hashes, level {level}");
        (
            name,
            TileKind::Hashes(level),
            size.get() >> (8 * u32::from(level)),
        )
    });
    let others = [
        ("Entries".to_owned(), TileKind::Entries, size.get()),
        ("Receipts".to_owned(), TileKind::Receipts, size.get()),
    ];
    let kinds = others.into_iter().chain(hashes);
    html! {
        table.rows {
            caption { "Under the published checkpoint" }
            thead {
                tr {
                    th scope="col" { "Of" }
                    th.n scope="col" { "Tiles" }
                    th scope="col" { "First" }
                    th scope="col" { "Last" }
                }
            }
            tbody {
                @for (name, kind, items) in kinds.filter(|(_, _, items)| *items > 0) {
                    @let tiles = items.div_ceil(WIDTH);
                    tr {
                        td.first { (name) }
                        td.n data-label="Tiles" { (count(tiles)) }
                        td data-label="First" { (tile(Tile::within(kind, 0, size))) }
                        td data-label="Last" { (tile(Tile::within(kind, tiles - 1, size))) }
                    }
                }
            }
        }
    }
}

fn tile(tile: Option<Tile>) -> Markup {
    let Some(tile) = tile else {
        return html! { "–" };
    };
    html! { a href=(format!("/{}", tile.path())) { code { (tile.path()) } } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_to_tiles_that_there_are() {
        for (size, links) in [
            (0, vec![]),
            (1, vec!["/tile/entries/000.p/1", "/tile/0/000.p/1"]),
            (
                256,
                vec!["/tile/entries/000", "/tile/0/000", "/tile/1/000.p/1"],
            ),
            (
                70_000,
                vec![
                    "/tile/entries/273.p/112",
                    "/tile/1/001.p/17",
                    "/tile/2/000.p/1",
                ],
            ),
        ] {
            let page = tiles(TreeSize::new(size).expect("small")).into_string();
            for link in &links {
                assert!(page.contains(&format!("href=\"{link}\"")), "{size}: {page}");
            }
            assert_eq!(page.contains("href="), !links.is_empty(), "{size}: {page}");
        }
    }
}
