//! Where a log is anchored, and that it shows what is anchored: what a pass
//! and the light clients share.
//!
//! A chain that falls silent says nothing about the log. Out of scope: asking
//! chains (see [`crate::chain`]) and what a finding is made of (see
//! [`crate::audit`]).

pub mod seen;

use std::time::Duration;

use protocol::anchor::ChainLog;
use protocol::index::{Index, TreeSize};
use protocol::key::VerifierKey;
use protocol::name::Address;
use serde_json::{Value, json};

use crate::audit::{self, Finding, Item, Prefix, Signed, Where};
use crate::chain::Chains;
use crate::chain::contract::{Anchor, Contract, Emitted, Statement, Whose};
use crate::chain::explorer;
use crate::chain::panel::{At, Block, Panel, Silence};
use crate::contrast::{contrast, roots};
use crate::fetch::{Caches, Client};
use crate::follow::{Findings, RawBundle};
use crate::pass::{covering, unix_time};
use crate::report::{Verdict, grouped};

/// A final block that is older is no view of the chain as it is now: the
/// slowest of the chains that finish are an hour behind.
const MAX_LAG: u64 = 7_200;

/// Why something is not settled.
#[derive(Debug)]
pub enum Unsettled {
    /// There is no complete answer.
    NoVerdict(String),
    /// The log misbehaves.
    Misbehaviour(Box<Finding>),
}

impl From<Silence> for Unsettled {
    fn from(silence: Silence) -> Self {
        Self::NoVerdict(silence.to_string())
    }
}

impl From<String> for Unsettled {
    fn from(why: String) -> Self {
        Self::NoVerdict(why)
    }
}

impl From<Finding> for Unsettled {
    fn from(finding: Finding) -> Self {
        Self::Misbehaviour(Box::new(finding))
    }
}

/// A log on one chain, as it is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchored {
    /// The chain's id.
    pub chain_id: u64,
    /// The log's contract there.
    pub contract: Address,
    /// How many anchors it holds.
    pub count: u64,
    /// Whether it takes no more.
    pub retired: bool,
    /// The newest anchor or, for one entry, the first that covers it.
    pub anchor: Option<(Anchor, Emitted)>,
}

impl Anchored {
    /// On a chain where nothing is anchored.
    pub fn nowhere(chain_id: u64, contract: Address) -> Self {
        Self {
            chain_id,
            contract,
            count: 0,
            retired: false,
            anchor: None,
        }
    }

    /// The machine's form.
    pub fn json(&self) -> Value {
        let transaction = self.anchor.map(|(_, emitted)| emitted.transaction);
        json!({
            "chain_id": self.chain_id,
            "contract": self.contract.to_string(),
            "count": self.count,
            "retired": self.retired,
            "index": self.anchor.map(|(anchor, _)| anchor.index),
            "size": self.anchor.map(|(anchor, _)| anchor.size),
            "root": self.anchor.map(|(anchor, _)| format!("0x{}", anchor.root)),
            "block": self.anchor.map(|(_, emitted)| emitted.block),
            "transaction": transaction.map(|hash| format!("0x{hash}")),
            "link": explorer::link(self.chain_id, self.contract, transaction),
        })
    }

    /// The person's form, in one line.
    pub fn text(&self) -> String {
        let chain = explorer::name(self.chain_id);
        let contract = self.contract;
        let ended = if self.retired {
            ", which takes no more"
        } else {
            ""
        };
        let Some((anchor, emitted)) = self.anchor else {
            return match self.count {
                0 => format!("not anchored yet on {chain}, in contract {contract}{ended}"),
                count => format!(
                    "not covered yet on {chain}, by {count} anchors in contract {contract}{ended}"
                ),
            };
        };
        let shown = explorer::link(self.chain_id, contract, Some(emitted.transaction));
        let shown = shown.map_or(String::new(), |link| format!("\n  {link}"));
        format!(
            "anchored on {chain}: number {} over {} entries, by transaction 0x{} in block {}, in \
             contract {contract}{ended}{shown}",
            anchor.index,
            grouped(anchor.size),
            emitted.transaction,
            emitted.block
        )
    }
}

/// Entry 0, with the receipt that the log signed for it.
#[derive(Debug)]
pub struct First {
    bytes: Vec<u8>,
    signature: [u8; 64],
    log: ChainLog,
}

impl First {
    /// Fetches it from a log of `size` entries.
    ///
    /// # Errors
    /// No complete answer, or an entry that the log did not sign as its own.
    pub async fn fetch(client: &Client, key: &VerifierKey, size: u64) -> Result<Self, String> {
        let size = TreeSize::new(size).filter(|size| size.get() > 0);
        let size = size.ok_or("the log has no entries")?;
        let bundle = RawBundle::fetch(client, 0, size, Caches::Allowed).await;
        let bundle = bundle.map_err(|error| error.to_string())?;
        let entry = bundle.entries().into_iter().zip(bundle.signatures()).next();
        let read = entry.and_then(|(bytes, signature)| {
            let item = Item::verify(Index::new(0)?, bytes, signature, key);
            let log = audit::chain_log(&item, key).filter(|_| item.signed())?;
            let (bytes, signature) = (bytes.to_vec(), *signature);
            Some(Self {
                bytes,
                signature,
                log,
            })
        });
        read.ok_or_else(|| "entry 0 is not one that the log signed as its own".into())
    }

    /// The log, as chains know it.
    pub fn log(&self) -> &ChainLog {
        &self.log
    }

    fn item(&self) -> Item<'_> {
        let index = Index::new(0).expect("0 is an index");
        Item::again(index, &self.bytes, &self.signature, true)
    }
}

/// What stands at the address of the log's contract.
#[derive(Debug)]
pub enum Opened {
    /// The log's contract.
    Ours(Contract),
    /// Nothing at this address, as of this block, or of the newest one.
    Nothing(Address, Option<Block>),
}

/// Looks for the log's contract on one chain: at the address that is `given`,
/// else at that which follows from entry 0. With `named` the log says itself
/// that it is there.
///
/// # Errors
/// Silence, or a contract that is another one.
pub async fn open(
    panel: &Panel,
    first: &First,
    given: Option<Address>,
    named: bool,
) -> Result<Opened, Unsettled> {
    let address = given.unwrap_or_else(|| first.log.contract());
    let looked_for = named || given.is_some();
    if !looked_for && panel.code(address, At::Latest).await?.is_empty() {
        return Ok(Opened::Nothing(address, None));
    }
    let block = panel.finalized().await?;
    let age = unix_time().saturating_sub(block.time);
    if age > MAX_LAG {
        return Err(Unsettled::NoVerdict(format!(
            "chain {}: the newest final block, {}, is {age} s old: a node lags behind, or the chain \
             stands still",
            panel.chain_id(),
            block.number
        )));
    }
    let contract = Contract::new(panel.clone(), address, block);
    match contract.whose(&first.log).await? {
        Whose::Ours => Ok(Opened::Ours(contract)),
        Whose::Nobody => Ok(Opened::Nothing(address, Some(block))),
        Whose::Foreign(why) => Err(audit::anchor_contract(&place(&contract), &why).into()),
    }
}

/// Why there is no verdict where the contract that the user names is on no
/// chain that was asked.
pub fn unknown(given: Option<Address>, found: &[Anchored], silent: &[String]) -> Option<String> {
    let nowhere = silent.is_empty() && found.iter().all(|on| on.count == 0);
    let given = given.filter(|_| nowhere)?;
    Some(format!(
        "nothing is anchored in the contract {given} on the chains that were asked"
    ))
}

/// Where a contract stands.
pub fn place(contract: &Contract) -> Where {
    Where {
        chain_id: contract.panel().chain_id(),
        contract: contract.address(),
        block: contract.block(),
    }
}

/// What is wrong where an anchored root is not that of the entries: with the
/// statement that the log's EVM key signed, if its transaction holds it.
///
/// # Errors
/// Silence, or nodes that contradict themselves.
pub async fn differs(
    contract: &Contract,
    (first, key): (&First, &VerifierKey),
    (anchor, emitted): (&Anchor, &Emitted),
    prefix: Prefix<'_>,
) -> Result<Finding, Unsettled> {
    let number = anchor.index;
    let panel = contract.panel();
    if contract.anchor(number).await? != *anchor {
        let what = format!("asked again, anchor {number} is another one");
        return Err(panel.contradiction(what).into());
    }
    let there = place(contract);
    let Some(transaction) = contract.transaction(emitted.transaction).await? else {
        return Ok(audit::anchor_differs_there(
            &there,
            (anchor, emitted),
            prefix,
        ));
    };
    let said = (anchor.size, anchor.root, anchor.time);
    let statement = Statement::within(&transaction.input, &first.log, said);
    let whole = Statement::is_looked_for_everywhere(&transaction.input);
    if statement.is_none() && whole && transaction.to == Some(contract.address()) {
        // The contract, whose code was compared, would have refused it.
        let what = format!(
            "anchor {number} is not signed by the log's EVM key in the transaction that is said to \
             have made it, 0x{}: the nodes lie",
            emitted.transaction
        );
        return Err(panel.contradiction(what).into());
    }
    let proven = statement.and_then(|statement| {
        let proven = audit::anchor_differs(&first.item(), &statement, prefix, key)?;
        Some(there.beside(proven, anchor, emitted))
    });
    Ok(proven.unwrap_or_else(|| audit::anchor_differs_there(&there, (anchor, emitted), prefix)))
}

/// The block of a contract's first anchor, if it has one.
///
/// # Errors
/// Silence.
pub async fn begins(contract: &Contract, count: u64) -> Result<Option<u64>, Silence> {
    if count == 0 {
        return Ok(None);
    }
    let (time, last) = (
        contract.anchor(0).await?.block_time,
        contract.block().number,
    );
    contract.panel().first_block_at(time, last).await.map(Some)
}

/// What is wrong with a log whose contract is marked as forked; `from` is a
/// block in which it was not, if one is known.
///
/// # Errors
/// Silence.
pub async fn forked(
    contract: &Contract,
    (first, key): (&First, &VerifierKey),
    from: Option<u64>,
) -> Result<Finding, Unsettled> {
    let there = place(contract);
    let served = || audit::anchor_forked_there(&there);
    let fork = match from {
        Some(from) => contract.fork(from).await?,
        None => None,
    };
    let Some(fork) = fork else {
        return Ok(served());
    };
    let transaction = contract.transaction(fork.emitted.transaction).await?;
    let proven = transaction.and_then(|transaction| {
        let [one, other] = Statement::fork_within(&transaction.input, &first.log, &fork)?;
        audit::anchor_forked(&first.item(), [&one, &other], key)
    });
    Ok(proven.unwrap_or_else(served))
}

/// Asks chains about one entry of a log.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The chains.
    pub chains: &'a Chains,
    /// The contract that the user names.
    pub contract: Option<Address>,
    /// The log.
    pub client: &'a Client,
    /// Its key.
    pub key: &'a VerifierKey,
    /// How long a checkpoint is waited for.
    pub patience: Duration,
}

/// What chains say of one entry.
#[derive(Debug, Default)]
pub struct Cover {
    /// Where the log is anchored, with the first anchor that covers the entry.
    pub anchored: Vec<Anchored>,
    /// What is wrong.
    pub findings: Findings,
    /// Why there is no verdict on some chain.
    pub silent: Vec<String>,
}

impl Cover {
    /// What a verdict becomes by it, and why there is none.
    pub fn settle(&self, verdict: Verdict, reason: Option<String>) -> (Verdict, Option<String>) {
        if !self.findings.is_empty() {
            return (Verdict::Misbehaviour, reason);
        }
        if self.silent.is_empty() {
            return (verdict, reason);
        }
        (Verdict::NoVerdict, Some(self.silent.join("; ")))
    }
}

impl Asker<'_> {
    /// By which anchors the entry at `index` is covered, which stands under
    /// `signed`: each anchored root must be that of the log's first entries.
    pub async fn cover(&self, signed: &Signed, index: u64) -> Cover {
        let (panels, silent) = self.chains.panels().await;
        let mut cover = Cover {
            silent: silent.iter().map(ToString::to_string).collect(),
            ..Cover::default()
        };
        let first = match First::fetch(self.client, self.key, signed.size()).await {
            Ok(first) => first,
            Err(why) => {
                cover.silent.push(why);
                return cover;
            }
        };
        for panel in &panels {
            match self.cover_on(panel, &first, signed, index).await {
                Ok(anchored) => cover.anchored.push(anchored),
                Err(Unsettled::NoVerdict(why)) => cover.silent.push(why),
                Err(Unsettled::Misbehaviour(finding)) => cover.findings.push(*finding),
            }
        }
        if cover.findings.is_empty() {
            let unknown = unknown(self.contract, &cover.anchored, &cover.silent);
            cover.silent.extend(unknown);
        }
        cover
    }

    async fn cover_on(
        &self,
        panel: &Panel,
        first: &First,
        signed: &Signed,
        index: u64,
    ) -> Result<Anchored, Unsettled> {
        let contract = match open(panel, first, self.contract, false).await? {
            Opened::Ours(contract) => contract,
            Opened::Nothing(contract, _) => {
                return Ok(Anchored::nowhere(panel.chain_id(), contract));
            }
        };
        let count = contract.count().await?;
        if contract.forked().await? {
            let from = begins(&contract, count).await?;
            return Err(forked(&contract, (first, self.key), from).await?.into());
        }
        let mut anchored = Anchored {
            chain_id: panel.chain_id(),
            contract: contract.address(),
            count,
            retired: contract.retired().await?,
            anchor: None,
        };
        let Some(anchor) = contract.first_covering(index, count).await? else {
            return Ok(anchored);
        };
        let emitted = contract.locate(&anchor).await?;
        let newest = self.newest(&contract, (&anchor, &emitted), signed).await?;
        let proven = roots(self.client, &newest, &[anchor.size]).await?;
        let [(root, proof)] = &proven[..] else {
            return Err("expected one root".to_owned().into());
        };
        if *root != anchor.root {
            let prefix = Prefix {
                newest: &newest,
                root: *root,
                proof,
            };
            let wrong = differs(&contract, (first, self.key), (&anchor, &emitted), prefix);
            return Err(wrong.await?.into());
        }
        anchored.anchor = Some((anchor, emitted));
        Ok(anchored)
    }

    /// A checkpoint over as much as is anchored, which goes on from `signed`.
    async fn newest(
        &self,
        contract: &Contract,
        (anchor, emitted): (&Anchor, &Emitted),
        signed: &Signed,
    ) -> Result<Signed, Unsettled> {
        if signed.size() >= anchor.size {
            return Ok(signed.clone());
        }
        let newest = covering(self.client, self.key, anchor.size - 1, self.patience).await;
        let newest = newest.map_err(|stopped| match stopped {
            Ok(findings) => match findings.kept().first() {
                Some(finding) => Unsettled::from(finding.clone()),
                None => Unsettled::NoVerdict("the log gave no checkpoint".into()),
            },
            Err(why) => Unsettled::NoVerdict(why),
        })?;
        let patience = self.patience.as_secs();
        let there = place(contract);
        if let Some(less) = audit::anchor_withheld(&there, (anchor, emitted), &newest, patience) {
            return Err(less.into());
        }
        match contrast(self.client, &newest, signed).await? {
            Some(finding) => Err(finding.into()),
            None => Ok(newest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::hash::Hash;

    #[test]
    fn anchors_are_told_with_a_link_where_an_explorer_is_known() {
        let anchor = Anchor {
            index: 11,
            size: 1_000,
            root: Hash::of(b"root"),
            time: 5,
            block_time: 9,
        };
        let emitted = Emitted {
            block: 123,
            transaction: Hash::of(b"transaction"),
        };
        let contract = Address::from_bytes([7; 20]);
        let on = |chain_id, anchor, retired| Anchored {
            chain_id,
            contract,
            count: 12,
            retired,
            anchor,
        };
        let transaction = emitted.transaction;
        let base = on(8_453, Some((anchor, emitted)), false);
        assert_eq!(
            base.text(),
            format!(
                "anchored on Base (chain 8453): number 11 over 1,000 entries, by transaction \
                 0x{transaction} in block 123, in contract {contract}\n  \
                 https://basescan.org/tx/0x{transaction}"
            )
        );
        assert_eq!(
            base.json()["link"],
            format!("https://basescan.org/tx/0x{transaction}")
        );
        let here = on(31_337, Some((anchor, emitted)), true);
        assert!(
            here.text()
                .ends_with(&format!("in contract {contract}, which takes no more"))
        );
        assert_eq!(here.json()["link"], Value::Null);
        let none = on(1, None, false);
        let text =
            format!("not covered yet on Ethereum (chain 1), by 12 anchors in contract {contract}");
        assert_eq!(none.text(), text);
        let nowhere = Anchored::nowhere(1, contract).text();
        assert_eq!(
            nowhere,
            format!("not anchored yet on Ethereum (chain 1), in contract {contract}")
        );
        assert_eq!(
            none.json()["link"],
            format!("https://etherscan.io/address/{contract}")
        );
        assert_eq!(none.json()["size"], Value::Null);
    }
}
