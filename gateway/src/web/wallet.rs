//! A wallet's page: what it used, and how far that is proven.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use maud::{Markup, html};
use protocol::entry::{Body, Entry};
use protocol::index::{Index, Time, TreeSize};
use protocol::name::Address;
use protocol::record::{Link, Source};
use protocol::totals::{Leaf, Totals};

use super::figures::counted;
use super::format::{count, lines, rounded, source_label, time, tokens};
use super::hours::Hours;
use super::layout::Page;
use super::policy::Policy;
use super::recent::{self, Recent, SHOWN};
use super::vouched::anchored;
use super::{today, usage, visited};
use crate::api::{Api, store_failed};
use crate::ledger::{Below, Sums, Tree, WalletSums};
use crate::reply::ApiError;
use crate::store::{Named, StoreError};

/// What the ledger has of a wallet, all of it as of one size.
#[derive(Debug)]
struct Account {
    size: TreeSize,
    sums: WalletSums,
    /// What of the newest totals entry under the published checkpoint.
    below: Below,
}

/// How far a wallet's sums are proven.
#[derive(Debug)]
enum Standing {
    /// By a totals entry.
    Settled(Settled),
    /// Totals entries come later.
    NotYet,
    /// This gateway began too lately to have the newest one's tree.
    Unknown,
}

#[derive(Debug)]
struct Settled {
    index: Index,
    time: Time,
    totals: Totals,
    /// Of the wallet, by source.
    leaves: Vec<Leaf>,
}

/// Shows a wallet.
pub(super) async fn wallet(
    State(api): State<Arc<Api>>,
    Path(asked): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Some(wallet) = Address::from_any_case(&asked) else {
        return Ok(no_address(&api, &asked, &headers));
    };
    let account = api.account(&wallet);
    let standing = api.standing(&wallet, &account.below).await?;
    let bound = api.newest(&wallet, Link::Bound, &account.sums).await?;
    let claimed = api.newest(&wallet, Link::Claimed, &account.sums).await?;
    let shown = Shown {
        api: &api,
        base: visited(&headers),
        wallet,
        asked: &asked,
        account,
        standing,
        bound,
        claimed,
    };
    let path = format!("/wallet/{}", wallet.checksummed());
    let (title, about) = (shown.title(), shown.description());
    // Who shows links takes no SVG.
    let card = format!("/card/{wallet}.png");
    let page = Page::new(&path, &title, &about, shown.body())
        .image(&card)
        .scripts(&["check.js"])
        .policy(Policy::Checking);
    Ok(page.answer(&api, &headers))
}

/// What is not an address has a page that says what one is.
fn no_address(api: &Api, asked: &str, headers: &HeaderMap) -> Response {
    let path = format!("/wallet/{asked}");
    let body = html! {
        h1 { "This is no wallet's address" }
        p.lead { code.hash { (asked) } }
        p {
            "The address of a wallet on Ethereum and chains like it is " code { "0x" }
            " and 40 hex digits (0 to 9, a to f), such as "
            code.hash { "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed" }
            ". Upper and lower case are taken alike. A name such as "
            code { "somebody.eth" } " has an address, which your wallet shows."
        }
        p { a href="/" { "To the leaderboard" } }
    };
    let about = "A wallet's address is 0x and 40 hex digits.";
    let page = Page::new(&path, "No address", about, body).status(StatusCode::NOT_FOUND);
    page.answer(api, headers).into_response()
}

impl Api {
    fn account(&self, wallet: &Address) -> Account {
        let published = self.published.borrow().checkpoint.size();
        let sums = self.sums.read();
        Account {
            size: sums.size(),
            sums: sums.wallet(wallet),
            below: sums.tree_below(published),
        }
    }

    async fn standing(&self, wallet: &Address, below: &Below) -> Result<Standing, ApiError> {
        let (index, tree) = match below {
            Below::Tree(index, tree) => (*index, tree),
            Below::Nothing => return Ok(Standing::NotYet),
            Below::Unknown => return Ok(Standing::Unknown),
        };
        let record = self.store.record(index).await.map_err(store_failed)?;
        match record.map(|record| Entry::parse(&record.entry)) {
            Some(Ok(Entry::Known {
                time,
                body: Body::Totals(totals),
            })) => Ok(Standing::Settled(Settled {
                index,
                time,
                totals,
                leaves: own(tree, wallet),
            })),
            _ => Err(store_failed(StoreError::Damaged(
                "a totals entry can't be read",
            ))),
        }
    }

    /// The newest records that are so linked to a wallet.
    async fn newest(
        &self,
        wallet: &Address,
        link: Link,
        sums: &WalletSums,
    ) -> Result<Vec<Recent>, ApiError> {
        let committed = self.committed.borrow().checkpoint.size().get();
        let (any, below) = match link {
            // What comes after the last one need not be looked through.
            Link::Bound => {
                let last = sums.ends.iter().map(|(.., last)| last.get() + 1).max();
                (&sums.bound, committed.min(last.unwrap_or(committed)))
            }
            Link::Claimed => (&sums.claimed, committed),
        };
        if any.is_empty() {
            return Ok(Vec::new());
        }
        let named = Named::Wallet(*wallet, link);
        let found = self.store.newest(&named, below, SHOWN).await;
        Ok(recent::read(&found.map_err(store_failed)?))
    }
}

/// A wallet's own leaves, without its neighbours'.
fn own(tree: &Tree, wallet: &Address) -> Vec<Leaf> {
    let proven = tree.prove(wallet).into_iter();
    let leaves = proven.filter_map(|proven| Leaf::parse(&proven.leaf));
    leaves.filter(|leaf| leaf.wallet == *wallet).collect()
}

/// What is on a wallet's page.
struct Shown<'a> {
    api: &'a Api,
    /// The address under which the visitor reached us.
    base: String,
    wallet: Address,
    /// The address as the visitor wrote it.
    asked: &'a str,
    account: Account,
    standing: Standing,
    bound: Vec<Recent>,
    claimed: Vec<Recent>,
}

impl Shown<'_> {
    fn title(&self) -> String {
        let address = self.wallet.checksummed();
        let (first, last) = (&address[..6], &address[address.len() - 4..]);
        format!("Wallet {first}…{last}")
    }

    fn description(&self) -> String {
        let sums = &self.account.sums;
        let of = |(by, sums): &(Source, Sums)| {
            format!("{} tokens ({})", rounded(sums.total()), by.as_str())
        };
        match (sums.bound.is_empty(), sums.claimed.is_empty()) {
            (false, _) => {
                let bound: Vec<_> = sums.bound.iter().map(of).collect();
                format!(
                    "{} used by calls that are bound to this wallet, in a log that anyone can check.",
                    bound.join(" and ")
                )
            }
            (true, false) => "Only claimed usage: nobody proved that it is this wallet's.".into(),
            (true, true) => "No usage of this wallet is in the log.".into(),
        }
    }

    fn body(&self) -> Markup {
        let today = today(self.api);
        let sums = &self.account.sums;
        html! {
            h1 { "Wallet " code.hash { (self.wallet.checksummed()) } }
            @if misspelt(self.asked) {
                div.callout.warn role="note" {
                    p { "The case of the letters in " code.hash { (self.asked) } " is not this address's checksum (EIP-55). Was a digit mistyped?" }
                }
            }
            p.lead { "As of the log's first " (count(self.account.size.get())) " entries." }
            @if sums.bound.is_empty() && sums.claimed.is_empty() { (nothing()) }
            (usage::figures(&sums.bound, &sums.days, &sums.models, today))
            (self.totals())
            (self.proof())
            @if !sums.bound.is_empty() {
                (usage::year(&sums.days, today))
                (usage::models(&sums.models))
                (self.hours())
                (usage::cost(&sums.models))
            }
            (self.records())
            (self.share())
        }
    }

    fn totals(&self) -> Markup {
        let sums = &self.account.sums;
        let rows = |link, sums: &[(Source, Sums)]| -> Vec<_> {
            let row = |(source, sums): &(Source, Sums)| (Some(link), *source, *sums);
            sums.iter().map(row).collect()
        };
        let mut all = rows(Link::Bound, &sums.bound);
        all.extend(rows(Link::Claimed, &sums.claimed));
        html! {
            h2 { "Totals" }
            @if all.is_empty() {
                p { "No records." }
            } @else {
                (usage::sums(&all))
            }
            p.small.muted {
                (recent::link(Link::Bound)) " " (recent::linked(Link::Bound)) ". "
                (recent::link(Link::Claimed)) " " (recent::linked(Link::Claimed))
                ": it has no rank and no place in what is proven."
            }
        }
    }

    fn proof(&self) -> Markup {
        let wallet = self.wallet;
        let line = format!(
            "cargo run --release -p sentinel -- wallet {wallet} {} --vkey {}",
            self.base, self.api.verifier
        );
        html! {
            h2 { "Proof" }
            dl.facts {
                @match &self.standing {
                    Standing::Settled(settled) => {
                        (self.settled(settled))
                    },
                    Standing::NotYet => {
                        dt { "Totals entry" }
                        dd { "None yet: the log's first one comes with the next interval." }
                    },
                    Standing::Unknown => {
                        dt { "Totals entry" }
                        dd { "This gateway began after the newest one: the next one comes with the next interval." }
                    },
                }
                dt { "For programs" }
                dd { a href=(format!("/api/wallet/{wallet}")) { "JSON, with the proof" } }
            }
            p { "Check it on your own machine, by two requests and without trust in this page:" }
            (lines(&line))
            section #verify aria-label="Checked in your browser" data-wallet=(wallet) {
                h3 { "Checked in your browser" }
                noscript { p { "With a script, your browser checks the proof here." } }
            }
        }
    }

    fn settled(&self, settled: &Settled) -> Markup {
        let newer = newer(&self.account.sums.bound, &settled.leaves);
        html! {
            dt { "Totals entry" }
            dd {
                a href=(format!("/record/{}", settled.index)) { "#" (settled.index) }
                " of " (time(settled.time)) ", over the first "
                (count(settled.totals.size.get())) " entries and "
                (counted(settled.totals.count, "sum")) " of all wallets"
            }
            dt { "Proven in it" }
            dd {
                @for leaf in &settled.leaves {
                    div {
                        (tokens(leaf.sums.input.saturating_add(leaf.sums.output))) " tokens in "
                        (counted(leaf.sums.records, "record")) " " (source_label(leaf.source))
                    }
                }
                @if settled.leaves.is_empty() { "That it holds nothing of this wallet." }
            }
            dt { "Anchor" }
            dd { (anchored(self.api.anchors.covering(settled.index).as_ref())) }
            dt { "Newer" }
            dd {
                @for (by, sums) in &newer {
                    div {
                        (tokens(sums.total())) " tokens in " (counted(sums.records, "record"))
                        " " (source_label(*by)) ", proven with the next totals entry"
                    }
                }
                @if newer.is_empty() { "Nothing: all bound records are in it." }
            }
        }
    }

    fn hours(&self) -> Markup {
        let sums = &self.account.sums;
        html! {
            h2 { "Hours of the day" }
            @for (by, _) in &sums.bound {
                h3 { "Records by UTC hour " (source_label(*by)) }
                (Hours::of(&sums.hours, *by).draw())
            }
        }
    }

    fn records(&self) -> Markup {
        html! {
            @if !self.bound.is_empty() {
                h2 { "Recent records" }
                (recent::table(&self.bound, "The newest bound records, the newest first"))
            }
            @if !self.claimed.is_empty() {
                h2 { "Recent claims" }
                (recent::table(&self.claimed, "The newest records whose requests named this wallet, the newest first; nobody proved anything"))
            }
        }
    }

    fn share(&self) -> Markup {
        let (base, wallet) = (&self.base, self.wallet);
        let page = format!("{base}/wallet/{wallet}");
        let badge = format!("[![LLM tokens]({base}/badge/{wallet}.svg)]({page})");
        let card = format!("[![LLM usage of {wallet}]({base}/card/{wallet}.svg)]({page})");
        html! {
            h2 { "Share" }
            p { "A badge for a README:" }
            p { img src=(format!("/badge/{wallet}.svg")) alt="The badge" height="20"; }
            (lines(&badge))
            p { "A card:" }
            p { img.shared src=(format!("/card/{wallet}.svg")) alt="The card" width="600" height="315" loading="lazy"; }
            (lines(&card))
        }
    }
}

fn nothing() -> Markup {
    html! {
        div.callout {
            p {
                "The log holds no record of this wallet. If that is yours: "
                a href="/link" { "link it" } " to your calls, and they count for it from then on."
            }
        }
    }
}

/// Whether an address is written in both cases, but not in those of its checksum.
fn misspelt(asked: &str) -> bool {
    let lower = asked
        .bytes()
        .skip(2)
        .any(|digit| digit.is_ascii_lowercase());
    lower && Address::from_checked(asked).is_err()
}

/// What is in the sums and in no leaf, by source, where there is anything.
fn newer(sums: &[(Source, Sums)], leaves: &[Leaf]) -> Vec<(Source, Sums)> {
    let over = |(source, sums): &(Source, Sums)| {
        let leaf = leaves.iter().find(|leaf| leaf.source == *source);
        let proven = leaf.map_or_else(Default::default, |leaf| leaf.sums);
        let left = Sums {
            records: sums.records.saturating_sub(proven.records),
            input: sums.input.saturating_sub(proven.input),
            cache_read: sums.cache_read.saturating_sub(proven.cache_read),
            cache_write: sums.cache_write.saturating_sub(proven.cache_write),
            output: sums.output.saturating_sub(proven.output),
            reasoning: sums.reasoning.saturating_sub(proven.reasoning),
        };
        (*source, left)
    };
    let left = sums.iter().map(over);
    left.filter(|(_, left)| left.records > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::totals;

    #[test]
    fn a_checksum_that_does_not_fit_is_seen() {
        let good = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
        for (asked, wrong) in [
            (good.to_owned(), false),
            (good.to_lowercase(), false),
            (format!("0x{}", good[2..].to_uppercase()), false),
            (good.replace("aAeb", "AAeb"), true),
            (good.replace("BeAed", "beaed"), true),
        ] {
            assert_eq!(misspelt(&asked), wrong, "{asked}");
        }
    }

    #[test]
    fn what_no_leaf_holds_is_newer() {
        let sums = |records, input| Sums {
            records,
            input,
            output: 1,
            ..Sums::default()
        };
        let leaf = Leaf {
            wallet: Address::from_bytes([1; 20]),
            source: Source::Proxy,
            sums: totals::Sums {
                records: 2,
                input: 50,
                output: 1,
                ..totals::Sums::default()
            },
            first: Index::new(1).expect("small"),
            last: Index::new(2).expect("small"),
        };
        let check = |sums: &[(Source, Sums)], leaves: &[Leaf], expected: &[(Source, u64, u64)]| {
            let found = newer(sums, leaves).into_iter();
            let found: Vec<_> = found.map(|(by, s)| (by, s.records, s.input)).collect();
            assert_eq!(found, expected);
        };
        check(&[], &[], &[]);
        check(&[(Source::Proxy, sums(2, 50))], &[leaf], &[]);
        check(
            &[(Source::Proxy, sums(3, 60)), (Source::Custom, sums(1, 5))],
            &[leaf],
            &[(Source::Proxy, 1, 10), (Source::Custom, 1, 5)],
        );
    }
}
