//! A log's contract on one chain (PROTOCOL.md section 13), as of one block.
//!
//! What stands in its storage and what its events say must be the same.
//! Out of scope: whether it is right (see [`crate::audit`]).

use protocol::anchor::{CREATION_CODE, ChainLog};
use protocol::hash::Hash;
use protocol::index::{Time, TreeSize};
use protocol::name::Address;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::abi;
use super::node::RpcError;
use super::panel::{At, Block, Called, Panel, Silence, Transaction};

/// The selectors of its views.
const COUNT: [u8; 4] = [0x06, 0x66, 0x1a, 0xbd];
const ANCHOR_AT: [u8; 4] = [0x16, 0x99, 0x49, 0x60];
const FORKED: [u8; 4] = [0x16, 0xc7, 0x27, 0x21];
const RETIRED: [u8; 4] = [0x2e, 0xb3, 0x8a, 0xe0];
const ORIGIN: [u8; 4] = [0x93, 0x8b, 0x5f, 0x32];

/// The topic of `Anchored(uint256,uint64,bytes32,uint64)`.
const ANCHORED: &str = "0x91e05141ac080a2cef06d69499b831b2668545cffe0b3a8f4dbb2ca9fda87112";

/// The topic of `Forked(uint64,bytes32,bytes32)`.
const FORK: &str = "0x7e750b68d066210a470ac83b11f7b2d6c56566c1f2d2c6f16a8343b0310670a8";

/// Where the runtime code begins in the creation code.
const RUNTIME: usize = 1_027;

/// Where the constructor puts what tells one log's code from another's: solc's
/// `immutableReferences`.
const LOG_KEY: usize = 4_846;
const EVM_KEY: [usize; 3] = [3_322, 4_590, 7_202];
const IDENTITY: [usize; 2] = [2_889, 4_481];
const DOMAIN: usize = 7_078;

/// Calls at once, and blocks that events are first asked for in one call.
const CALLS_AT_ONCE: u64 = 8;
const BLOCKS_AT_ONCE: u64 = 10_000;

/// A node that refuses even so few blocks refuses for another reason.
const FEWEST_BLOCKS: u64 = 16;

/// The longest input that is looked through for a signature.
const MAX_INPUT: usize = 128 << 10;

/// The most places in it that are tried.
const MAX_TRIES: usize = 4_096;

/// An anchor, as it stands in storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Its number, from 0.
    pub index: u64,
    /// How many entries it covers.
    pub size: u64,
    /// Their root.
    pub root: Hash,
    /// The time of the last of them, as the log signed it.
    pub time: u64,
    /// The time of its block.
    pub block_time: u64,
}

/// Where an event was emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// The block's number.
    pub block: u64,
    /// The transaction's hash.
    pub transaction: Hash,
}

/// What the log's EVM key signed of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The size.
    pub size: u64,
    /// The root of so many entries.
    pub root: Hash,
    /// The time of the last of them.
    pub time: u64,
    /// r, s and v.
    pub signature: [u8; 65],
}

/// Whose contract stands at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Nobody's: there is none.
    Nobody,
    /// Not this log's, with what shows it.
    Foreign(String),
    /// This log's.
    Ours,
}

/// A contract as of one block.
#[derive(Clone, Debug)]
pub struct Contract {
    panel: Panel,
    address: Address,
    at: Block,
}

impl Statement {
    /// Whether a signature that [`Self::within`] does not find in an input is
    /// not in it: of a long one, not every place is tried.
    pub fn is_looked_for_everywhere(input: &[u8]) -> bool {
        input.len() <= MAX_TRIES
    }

    /// Whether the key that `log`'s entry 0 names signed it (section 13.1).
    pub fn signed_by(&self, log: &ChainLog) -> bool {
        let said = TreeSize::new(self.size).zip(Time::from_secs(self.time));
        said.is_some_and(|(size, time)| log.signed(size, self.root, time, &self.signature))
    }

    /// As evidence holds it.
    pub fn json(&self) -> Value {
        json!({
            "size": self.size, "root": format!("0x{}", self.root), "time": self.time,
            "signature": abi::hex(&self.signature),
        })
    }

    /// Reads what [`Self::json`] gives.
    pub fn read(value: &Value) -> Option<Self> {
        Some(Self {
            size: value["size"].as_u64()?,
            root: abi::hash(&value["root"])?,
            time: value["time"].as_u64()?,
            signature: abi::bytes(value["signature"].as_str()?)?.try_into().ok()?,
        })
    }

    /// The one of this size, root and time in a transaction's input, whoever's
    /// call it is: the contract may have been called by another one.
    pub fn within(
        input: &[u8],
        log: &ChainLog,
        (size, root, time): (u64, Hash, u64),
    ) -> Option<Self> {
        let input = &input[..input.len().min(MAX_INPUT)];
        let signatures = input
            .windows(65)
            .filter(|window| matches!(window[64], 27 | 28));
        let mut statements = signatures.take(MAX_TRIES).map(|window| Self {
            size,
            root,
            time,
            signature: window.try_into().expect("65 bytes"),
        });
        statements.find(|statement| statement.signed_by(log))
    }

    /// Both of a call of `reportFork` in a transaction's input.
    pub fn fork_within(input: &[u8], log: &ChainLog, fork: &Fork) -> Option<[Self; 2]> {
        let size = abi::word(fork.size);
        // size, root, time, where the signature is, other root, other time.
        input.windows(192).take(MAX_INPUT).find_map(|window| {
            let words = abi::words::<6>(window)?;
            let roots = [Hash::from_bytes(words[1]), Hash::from_bytes(words[4])];
            if words[0] != size || roots != [fork.root, fork.other_root] {
                return None;
            }
            let times = [abi::number(&words[2])?, abi::number(&words[5])?];
            let one = Self::within(input, log, (fork.size, roots[0], times[0]))?;
            Some([
                one,
                Self::within(input, log, (fork.size, roots[1], times[1]))?,
            ])
        })
    }
}

/// Two roots that the log signed for one size, as the contract was shown them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The size.
    pub size: u64,
    /// One root.
    pub root: Hash,
    /// The other one.
    pub other_root: Hash,
    /// Where it was recorded.
    pub emitted: Emitted,
}

/// The code that the constructor leaves for a log.
pub fn runtime_code(log: &ChainLog) -> Vec<u8> {
    let mut code = CREATION_CODE[RUNTIME..].to_vec();
    let evm_key = abi::address_word(log.evm_key());
    let mut put = |place: usize, word: &[u8; 32]| code[place..place + 32].copy_from_slice(word);
    put(LOG_KEY, log.log_key());
    EVM_KEY.iter().for_each(|place| put(*place, &evm_key));
    IDENTITY
        .iter()
        .for_each(|place| put(*place, log.identity().as_bytes()));
    put(DOMAIN, &log.domain_separator());
    code
}

/// Why code is not `log`'s.
fn foreign(code: &[u8], log: &ChainLog) -> String {
    let at = |place: usize| code.get(place..place + 32).unwrap_or_default();
    let (log_key, evm_key) = (at(LOG_KEY), at(EVM_KEY[0]));
    let mut same = code.to_vec();
    let ours = runtime_code(log);
    for place in [LOG_KEY, DOMAIN].iter().chain(&EVM_KEY).chain(&IDENTITY) {
        if let (Some(to), Some(from)) = (
            same.get_mut(*place..place + 32),
            ours.get(*place..place + 32),
        ) {
            to.copy_from_slice(from);
        }
    }
    if same != ours {
        return format!(
            "its code of {} bytes is not that of TallystickAnchor, which has {}",
            code.len(),
            ours.len()
        );
    }
    if log_key != log.log_key() {
        return format!(
            "its log key is {}, this log's is {}",
            abi::hex(log_key),
            abi::hex(log.log_key())
        );
    }
    if evm_key != abi::address_word(log.evm_key()) {
        return format!(
            "its EVM key is {}, entry 0 names {}",
            abi::hex(&evm_key[12..]),
            log.evm_key()
        );
    }
    "it was made for another origin".into()
}

impl Contract {
    /// The one at `address`, as it is in the block `at`.
    pub fn new(panel: Panel, address: Address, at: Block) -> Self {
        Self { panel, address, at }
    }

    /// The nodes that are asked.
    pub fn panel(&self) -> &Panel {
        &self.panel
    }

    /// Where it is.
    pub fn address(&self) -> Address {
        self.address
    }

    /// As of which block.
    pub fn block(&self) -> Block {
        self.at
    }

    /// Whether it is `log`'s: the code, its keys among it, and the origin.
    ///
    /// # Errors
    /// As everything here, [`Silence`].
    pub async fn whose(&self, log: &ChainLog) -> Result<Whose, Silence> {
        let code = self
            .panel
            .code(self.address, At::Block(self.at.hash))
            .await?;
        if code.is_empty() {
            return Ok(Whose::Nobody);
        }
        if code != runtime_code(log) {
            return Ok(Whose::Foreign(foreign(&code, log)));
        }
        let origin = self.view("origin", &ORIGIN, &[]).await?;
        let origin = abi::text(&origin).ok_or_else(|| self.unread("origin"))?;
        if origin != log.origin().as_str() {
            let ours = log.origin();
            return Ok(Whose::Foreign(format!(
                "its origin is {origin:?}, this log's is {ours}"
            )));
        }
        Ok(Whose::Ours)
    }

    /// How many anchors there are.
    ///
    /// # Errors
    /// [`Silence`].
    pub async fn count(&self) -> Result<u64, Silence> {
        self.number("count", &COUNT).await
    }

    /// Whether it is marked as forked.
    ///
    /// # Errors
    /// [`Silence`].
    pub async fn forked(&self) -> Result<bool, Silence> {
        Ok(self.number("forked", &FORKED).await? != 0)
    }

    /// Whether it takes no more anchors, because the log has ended.
    ///
    /// # Errors
    /// [`Silence`].
    pub async fn retired(&self) -> Result<bool, Silence> {
        Ok(self.number("retired", &RETIRED).await? != 0)
    }

    /// The anchor of a number, which is below the count.
    ///
    /// # Errors
    /// [`Silence`].
    pub async fn anchor(&self, index: u64) -> Result<Anchor, Silence> {
        let answer = self.view("anchorAt", &ANCHOR_AT, &abi::word(index)).await?;
        let read = || {
            let [size, root, time, block_time] = abi::words(&answer)?;
            Some(Anchor {
                index,
                size: abi::number(&size)?,
                root: Hash::from_bytes(root),
                time: abi::number(&time)?,
                block_time: abi::number(&block_time)?,
            })
        };
        let anchor = read().ok_or_else(|| self.unread("anchorAt"))?;
        let fits = TreeSize::new(anchor.size).is_some() && anchor.block_time <= self.at.time;
        fits.then_some(anchor).ok_or_else(|| {
            self.panel
                .contradiction(format!("anchor {index} is one that cannot be: {anchor:?}"))
        })
    }

    /// Anchors by their numbers; their sizes ascend.
    ///
    /// # Errors
    /// [`Silence`].
    pub async fn anchors(&self, numbers: std::ops::Range<u64>) -> Result<Vec<Anchor>, Silence> {
        let mut anchors: Vec<Anchor> = vec![];
        let mut next = numbers.start;
        while next < numbers.end {
            let end = numbers.end.min(next + CALLS_AT_ONCE);
            let mut tasks = JoinSet::new();
            for index in next..end {
                let contract = self.clone();
                tasks.spawn(async move { contract.anchor(index).await });
            }
            for answer in tasks.join_all().await {
                anchors.push(answer?);
            }
            next = end;
        }
        anchors.sort_by_key(|anchor| anchor.index);
        if let Some(two) = anchors.windows(2).find(|two| two[0].size >= two[1].size) {
            let what = format!("anchor {} is not larger than the one before", two[1].index);
            return Err(self.panel.contradiction(what));
        }
        Ok(anchors)
    }

    /// The first anchor of `count` that covers an entry.
    ///
    /// # Errors
    /// [`Silence`].
    pub async fn first_covering(&self, entry: u64, count: u64) -> Result<Option<Anchor>, Silence> {
        let (mut low, mut high) = (0, count);
        let mut found = None;
        while low < high {
            let middle = u64::midpoint(low, high);
            let anchor = self.anchor(middle).await?;
            if anchor.size > entry {
                high = middle;
                found = Some(anchor);
            } else {
                low = middle + 1;
            }
        }
        Ok(found)
    }

    /// Where each of these anchors, which follow each other, was emitted, from
    /// block `from` on. With `last` there must be no further ones.
    ///
    /// # Errors
    /// [`Silence`], also where the events are not those anchors.
    pub async fn emitted(
        &self,
        anchors: &[Anchor],
        from: u64,
        last: bool,
    ) -> Result<Vec<Emitted>, Silence> {
        let first = anchors.first().map(|anchor| anchor.index);
        let mut emitted: Vec<Emitted> = vec![];
        let mut scan = Scan::new(from, self.at.number);
        while !scan.is_done() && (last || emitted.len() < anchors.len()) {
            for event in self.events(ANCHORED, &mut scan).await? {
                let (place, anchored) = self.read_anchored(&event)?;
                if Some(anchored.index) < first {
                    continue;
                }
                match anchors.get(emitted.len()) {
                    Some(anchor) if anchored.is(anchor) => emitted.push(place),
                    Some(anchor) => {
                        let what = format!("storage holds {anchor:?}, an event says {anchored:?}");
                        return Err(self.panel.contradiction(what));
                    }
                    None if last => {
                        let what =
                            format!("an event says {anchored:?}, storage holds no such anchor");
                        return Err(self.panel.contradiction(what));
                    }
                    None => {}
                }
            }
        }
        if let Some(anchor) = anchors.get(emitted.len()) {
            let what = format!("storage holds {anchor:?}, of which no event says anything");
            return Err(self.panel.contradiction(what));
        }
        Ok(emitted)
    }

    /// Where one anchor was emitted.
    ///
    /// # Errors
    /// [`Silence`].
    pub async fn locate(&self, anchor: &Anchor) -> Result<Emitted, Silence> {
        let from = self
            .panel
            .first_block_at(anchor.block_time, self.at.number)
            .await?;
        let emitted = self.emitted(&[*anchor], from, false).await?;
        Ok(emitted[0])
    }

    /// The fork that was recorded from block `from` on.
    ///
    /// # Errors
    /// [`Silence`].
    pub async fn fork(&self, from: u64) -> Result<Option<Fork>, Silence> {
        let mut scan = Scan::new(from, self.at.number);
        while !scan.is_done() {
            if let Some(event) = self.events(FORK, &mut scan).await?.first() {
                let read = || {
                    let [root, other_root] = abi::words(&event.data)?;
                    let [_, size] = event.topics[..].try_into().ok()?;
                    Some(Fork {
                        size: abi::number(&size)?,
                        root: Hash::from_bytes(root),
                        other_root: Hash::from_bytes(other_root),
                        emitted: event.emitted,
                    })
                };
                return read().map(Some).ok_or_else(|| self.unread("Forked"));
            }
        }
        Ok(None)
    }

    /// A transaction that called the contract.
    ///
    /// # Errors
    /// [`Silence`].
    pub async fn transaction(&self, hash: Hash) -> Result<Option<Transaction>, Silence> {
        self.panel.transaction(hash).await
    }

    /// The next events of a topic; the scan goes on behind them.
    async fn events(&self, topic: &str, scan: &mut Scan) -> Result<Vec<Event>, Silence> {
        loop {
            let (from, to) = scan.range();
            let params = json!([{
                "address": self.address.to_string(), "topics": [topic],
                "fromBlock": format!("0x{from:x}"), "toBlock": format!("0x{to:x}"),
            }]);
            let read = |value: &Value| self.read_events(value, topic, (from, to));
            match self.panel.ask("eth_getLogs", params, read).await {
                Ok(events) => {
                    scan.next = to + 1;
                    return Ok(events);
                }
                // Nodes bound the blocks of one call, each in its own words.
                Err(Silence::Node {
                    error: RpcError::Refused { .. } | RpcError::Form { .. },
                    ..
                }) if scan.step > FEWEST_BLOCKS && to > from => {
                    scan.step = (scan.step.min(to - from + 1) / 4).max(1);
                }
                Err(silence) => return Err(silence),
            }
        }
    }

    fn read_events(&self, value: &Value, topic: &str, blocks: (u64, u64)) -> Option<Vec<Event>> {
        let events = value.as_array()?.iter().map(|log| {
            let address = Address::from_any_case(log["address"].as_str()?)?;
            let block = abi::quantity(&log["blockNumber"])?;
            let topics = log["topics"].as_array()?.iter();
            let topics = topics.map(|topic| Some(*abi::hash(topic)?.as_bytes()));
            let topics: Vec<[u8; 32]> = topics.collect::<Option<_>>()?;
            let first = topics.first().map(|first| abi::hex(first));
            let asked = address == self.address
                && first.as_deref() == Some(topic)
                && (blocks.0..=blocks.1).contains(&block)
                && log["removed"] != true;
            asked.then_some(Event {
                topics,
                data: abi::bytes(log["data"].as_str()?)?,
                emitted: Emitted {
                    block,
                    transaction: abi::hash(&log["transactionHash"])?,
                },
            })
        });
        events.collect()
    }

    fn read_anchored(&self, event: &Event) -> Result<(Emitted, Anchored), Silence> {
        let read = || {
            let [_, size, root] = event.topics[..].try_into().ok()?;
            let [index, time] = abi::words(&event.data)?;
            Some(Anchored {
                index: abi::number(&index)?,
                size: abi::number(&size)?,
                root: Hash::from_bytes(root),
                time: abi::number(&time)?,
            })
        };
        let anchored = read().ok_or_else(|| self.unread("Anchored"))?;
        Ok((event.emitted, anchored))
    }

    async fn number(&self, name: &str, selector: &[u8; 4]) -> Result<u64, Silence> {
        let answer = self.view(name, selector, &[]).await?;
        let number = abi::words::<1>(&answer).and_then(|[word]| abi::number(&word));
        number.ok_or_else(|| self.unread(name))
    }

    async fn view(
        &self,
        name: &str,
        selector: &[u8; 4],
        argument: &[u8],
    ) -> Result<Vec<u8>, Silence> {
        let data = [&selector[..], argument].concat();
        let called = self
            .panel
            .call(self.address, &data, At::Block(self.at.hash))
            .await?;
        match called {
            Called::Returned(bytes) => Ok(bytes),
            Called::Reverted => Err(self.panel.contradiction(format!(
                "{} refuses {name}, which this contract never does",
                self.address
            ))),
        }
    }

    fn unread(&self, name: &str) -> Silence {
        let what = format!("what {} answers as {name} can't be read", self.address);
        self.panel.contradiction(what)
    }
}

/// Blocks that are looked through for events.
struct Scan {
    next: u64,
    last: u64,
    step: u64,
}

impl Scan {
    fn new(next: u64, last: u64) -> Self {
        let step = BLOCKS_AT_ONCE;
        Self { next, last, step }
    }

    fn is_done(&self) -> bool {
        self.next > self.last
    }

    fn range(&self) -> (u64, u64) {
        (
            self.next,
            self.last.min(self.next.saturating_add(self.step - 1)),
        )
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Event {
    topics: Vec<[u8; 32]>,
    data: Vec<u8>,
    emitted: Emitted,
}

/// What an event says.
#[derive(Debug)]
struct Anchored {
    index: u64,
    size: u64,
    root: Hash,
    time: u64,
}

impl Anchored {
    fn is(&self, anchor: &Anchor) -> bool {
        (self.index, self.size, self.root, self.time)
            == (anchor.index, anchor.size, anchor.root, anchor.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::fake::Ledger;
    use crate::chain::fake::{evm_key, statement};
    use protocol::key::{Origin, Signer};

    /// The log of a key, with the EVM key of `seed`.
    fn log(key: u8, seed: u8) -> ChainLog {
        let signer = Signer::new(Origin::parse("a.b").expect("valid"), &[key; 32]);
        ChainLog::new(signer.verifier(), evm_key(seed))
    }

    fn ledger(blocks: &[u64]) -> Ledger {
        let log = log(1, 1);
        Ledger::new(log.contract(), runtime_code(&log), blocks)
    }

    async fn contract(ledgers: impl IntoIterator<Item = Ledger>) -> Contract {
        let mut nodes = vec![];
        let (mut address, mut last) = (None, u64::MAX);
        for ledger in ledgers {
            (address, last) = (Some(ledger.address), last.min(ledger.last));
            nodes.push(ledger.serve().await.node(nodes.len() + 1));
        }
        let at = Block {
            number: last,
            hash: Ledger::block_hash(last),
            time: Ledger::time(last),
        };
        Contract::new(Panel::new(5, nodes), address.expect("a ledger"), at)
    }

    /// Every anchor with its event, as a fresh sentinel reads them.
    async fn history(contract: &Contract) -> Result<Vec<(Anchor, Emitted)>, Silence> {
        let anchors = contract.anchors(0..contract.count().await?).await?;
        let emitted = contract.emitted(&anchors, 0, true).await?;
        Ok(anchors.into_iter().zip(emitted).collect())
    }

    #[tokio::test]
    async fn a_history_is_read_whole_however_few_blocks_a_node_looks_through() {
        let blocks = [3, 3, 70, 500, 2_000, 2_001, 2_002, 2_003, 2_004, 50_000];
        for most in [u64::MAX, 10_000, 2_500, 100, 16] {
            let mut ledger = ledger(&blocks);
            ledger.most = most;
            let events = ledger.events.clone();
            let contract = contract([ledger]).await;
            assert_eq!(contract.whose(&log(1, 1)).await, Ok(Whose::Ours));
            let found = contract
                .emitted(&[events[3].0, events[4].0], 400, false)
                .await;
            assert_eq!(found, Ok(vec![events[3].1, events[4].1]), "{most}");
            if most >= 2_500 {
                assert_eq!(history(&contract).await, Ok(events.clone()), "{most}");
                for (anchor, emitted) in &events[2..] {
                    assert_eq!(contract.locate(anchor).await, Ok(*emitted), "{most}");
                }
            }
        }
    }

    #[tokio::test]
    async fn the_first_anchor_that_covers_an_entry_is_found() {
        let contract = contract([ledger(&[3, 4, 5, 6, 7])]).await;
        for (entry, expected) in [
            (0, Some(0)),
            (9, Some(0)),
            (10, Some(1)),
            (39, Some(3)),
            (49, Some(4)),
            (50, None),
        ] {
            let found = contract.first_covering(entry, 5).await.expect("it answers");
            assert_eq!(found.map(|anchor| anchor.index), expected, "{entry}");
        }
        assert_eq!(contract.first_covering(0, 0).await, Ok(None));
    }

    #[tokio::test]
    async fn storage_and_events_must_agree_and_be_possible() {
        type Bend = fn(&mut Ledger);
        let cases: [(&str, &str, Bend); 9] = [
            ("another root", "an event says Anchored { index: 1", |l| {
                l.events[1].0.root = Hash::of(b"x")
            }),
            ("another time", "storage holds Anchor { index: 0", |l| {
                l.events[0].0.time = 1
            }),
            ("an event less", "an event says Anchored { index: 2", |l| {
                l.events.remove(1);
            }),
            (
                "the last event less",
                "of which no event says anything",
                |l| l.events.truncate(2),
            ),
            ("an event more", "storage holds no such anchor", |l| {
                l.anchors.truncate(2)
            }),
            ("an event twice", "an event says Anchored { index: 1", |l| {
                l.events.insert(1, l.events[1])
            }),
            ("a size again", "anchor 2 is not larger", |l| {
                l.anchors[2].size = 20
            }),
            ("a time to come", "one that cannot be", |l| {
                l.anchors[0].block_time = 1 << 40
            }),
            ("a size beyond all", "one that cannot be", |l| {
                l.anchors[0].size = 1 << 60
            }),
        ];
        for (name, said, bend) in cases {
            let mut bent = ledger(&[3, 4, 5]);
            bend(&mut bent);
            let why = history(&contract([bent]).await)
                .await
                .expect_err(name)
                .to_string();
            let expected = if name == "an event twice" {
                "storage holds"
            } else {
                said
            };
            assert!(why.contains(expected), "{name}: {why}");
        }
    }

    #[tokio::test]
    async fn two_nodes_must_say_the_same() {
        type Bend = fn(&mut Ledger);
        let cases: [(&str, &str, Bend); 5] = [
            ("one that lags", "", |l| l.last += 1),
            (
                "another root",
                "the nodes disagree on eth_call: node 1 (",
                |l| l.anchors[1].root = Hash::of(b"x"),
            ),
            ("another count", "the nodes disagree on eth_call", |l| {
                l.anchors.truncate(2)
            }),
            ("an event less", "the nodes disagree on eth_getLogs", |l| {
                l.events.truncate(2)
            }),
            (
                "an event elsewhere",
                "the nodes disagree on eth_getLogs",
                |l| l.events[1].1.block = 3,
            ),
        ];
        for (name, said, bend) in cases {
            let (good, mut bent) = (ledger(&[3, 4, 5]), ledger(&[3, 4, 5]));
            bend(&mut bent);
            if name == "one that lags" {
                assert_eq!(contract([good, bent]).await.block().number, 14, "{name}");
                continue;
            }
            let why = history(&contract([good, bent]).await)
                .await
                .expect_err(name)
                .to_string();
            assert!(
                why.contains(said) && why.contains("; node 2 ("),
                "{name}: {why}"
            );
        }
        // Code is compared likewise, and garbage is no answer.
        let mut other = ledger(&[3]);
        other.code.clear();
        let both = contract([ledger(&[3]), other]).await;
        assert!(
            both.whose(&log(1, 1))
                .await
                .is_err_and(|why| why.to_string().contains("eth_getCode"))
        );
        let mut stranger = ledger(&[3]);
        stranger.address = Address::from_bytes([1; 20]);
        let mut contract = contract([stranger]).await;
        contract.address = log(1, 1).contract();
        assert!(
            history(&contract)
                .await
                .is_err_and(|why| why.to_string().contains("eth_getLogs"))
        );
    }

    #[tokio::test]
    async fn a_contract_is_told_from_others() {
        let ours = log(1, 1);
        let mut patched = runtime_code(&ours);
        patched[100] ^= 1;
        let with = |code: Vec<u8>, origin: &str| {
            let mut ledger = ledger(&[]);
            (ledger.code, ledger.origin) = (code, origin.into());
            ledger
        };
        for (name, ledger, said) in [
            ("ours", with(runtime_code(&ours), "a.b"), None),
            (
                "another origin",
                with(runtime_code(&ours), "a.c"),
                Some("its origin is \"a.c\""),
            ),
            (
                "another EVM key",
                with(runtime_code(&log(1, 2)), "a.b"),
                Some("its EVM key is 0x"),
            ),
            (
                "another log key",
                with(runtime_code(&log(2, 1)), "a.b"),
                Some("its log key is 0x"),
            ),
            (
                "other code",
                with(patched, "a.b"),
                Some("its code of 8736 bytes is not that"),
            ),
            (
                "short code",
                with(vec![1], "a.b"),
                Some("its code of 1 bytes is not that"),
            ),
        ] {
            match (contract([ledger]).await.whose(&ours).await, said) {
                (Ok(Whose::Ours), None) => {}
                (Ok(Whose::Foreign(why)), Some(said)) => {
                    assert!(why.contains(said), "{name}: {why}")
                }
                (other, _) => panic!("{name}: {other:?}"),
            }
        }
        let nobody = contract([with(vec![], "a.b")]).await;
        assert_eq!(nobody.whose(&ours).await, Ok(Whose::Nobody));
    }

    #[test]
    fn statements_are_found_in_whatever_carries_them() {
        let ours = log(1, 1);
        let (root, other) = (Hash::of(b"root"), Hash::of(b"other"));
        let one = statement(1, &ours, (9, root, 7));
        let two = statement(1, &ours, (9, other, 8));
        assert_eq!(Statement::read(&one.json()), Some(one));
        let input = [&[27; 70][..], &one.signature, &[28; 9]].concat();
        let said = (9, root, 7);
        assert_eq!(Statement::within(&input, &ours, said), Some(one));
        for (name, input, log, said) in [
            ("nothing", &[][..], &ours, said),
            ("another root", &input, &ours, (9, other, 7)),
            ("another size", &input, &ours, (8, root, 7)),
            ("no size at all", &input, &ours, (u64::MAX, root, 7)),
            ("another log", &input, &log(2, 1), said),
            ("another EVM key", &input, &log(1, 2), said),
        ] {
            assert_eq!(Statement::within(input, log, said), None, "{name}");
        }
        let head = [
            abi::word(9),
            *root.as_bytes(),
            abi::word(7),
            abi::word(0),
            *other.as_bytes(),
            abi::word(8),
        ];
        let input = [&[1; 5][..], &head.concat(), &one.signature, &two.signature].concat();
        let emitted = Emitted {
            block: 1,
            transaction: root,
        };
        let fork = Fork {
            size: 9,
            root,
            other_root: other,
            emitted,
        };
        assert_eq!(
            Statement::fork_within(&input, &ours, &fork),
            Some([one, two])
        );
        assert_eq!(Statement::fork_within(&input[..230], &ours, &fork), None);
        let fork = Fork { size: 8, ..fork };
        assert_eq!(Statement::fork_within(&input, &ours, &fork), None);
    }
}
