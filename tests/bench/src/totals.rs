//! The totals tree of many wallets: how long the next one takes to be made,
//! what of that the log waits for, and what memory it takes.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use gateway::ledger::Ledger;
use protocol::entry::Body;
use protocol::hash::Hash;
use protocol::index::{Index, Time};
use protocol::name::{Address, Name};
use protocol::record::{Counts, Link, Outcome, Source, Usage};
use protocol::totals::Totals;

use crate::Failed;
use crate::log::Random;
use crate::processes::high_water;

/// Entries that come while a tree is made, from wallets new and old.
const MEANWHILE: u64 = 1_000;

/// What to measure on.
#[derive(Debug, Args)]
pub(crate) struct Given {
    /// Wallets with bound usage
    #[arg(long, default_value_t = 1_000_000)]
    wallets: u64,

    /// Chooses the made-up wallets
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Measures, and prints rows for RESULTS.md.
///
/// # Errors
/// The machine's.
pub(crate) fn run(given: &Given) -> Result<(), Failed> {
    let count = given.wallets;
    let mut log = Log {
        ledger: Ledger::default(),
        random: Random(given.seed),
        wallets: Vec::new(),
    };
    log.ledger.go_live()?;
    for _ in 0..count {
        log.newcomer()?;
    }
    log.row("all new")?;
    log.calls(1_000)?;
    log.row("1,000 changed")?;
    for _ in 0..1_000 {
        log.newcomer()?;
    }
    log.row("1,000 new")?;
    log.calls(count / 10)?;
    log.row("10 % changed")?;
    for at in 0..log.wallets.len() {
        log.call(log.wallets[at])?;
    }
    log.row("all changed")
}

/// A ledger, fed as the sequencer feeds it.
struct Log {
    ledger: Ledger,
    random: Random,
    wallets: Vec<Address>,
}

impl Log {
    fn newcomer(&mut self) -> Result<(), Failed> {
        let mut bytes = [0; 20];
        for part in bytes.chunks_mut(4) {
            part.copy_from_slice(&(self.random.below(1 << 32) as u32).to_be_bytes());
        }
        let wallet = Address::from_bytes(bytes);
        self.wallets.push(wallet);
        self.call(wallet)
    }

    /// Calls of wallets that are there.
    fn calls(&mut self, count: u64) -> Result<(), Failed> {
        for _ in 0..count {
            let at = self.random.below(self.wallets.len() as u64);
            self.call(self.wallets[at as usize])?;
        }
        Ok(())
    }

    fn call(&mut self, wallet: Address) -> Result<(), Failed> {
        let counts = Counts {
            input: Some(1 + self.random.below(4_000) as u32),
            output: Some(1 + self.random.below(900) as u32),
            ..Counts::NONE
        };
        self.add(&Body::Usage(Usage {
            receipt: Hash::EMPTY_ROOT,
            key_id: None,
            wallet: Some((wallet, Link::Bound)),
            source: Source::Proxy,
            provider: Name::new("openai").expect("a name"),
            model: None,
            counts,
            outcome: Outcome::Complete,
            inconsistent: false,
            response: None,
        }))
    }

    fn add(&mut self, body: &Body) -> Result<(), Failed> {
        let size = self.ledger.size().get();
        let index = Index::new(size).ok_or("too many entries")?;
        let time = Time::from_secs(1_760_000_000 + size / 1_000).ok_or("too late")?;
        Ok(self.ledger.add(index, time, &[], Some(body))?)
    }

    fn row(&mut self, what: &str) -> Result<(), Failed> {
        let measured = self.sums_up()?;
        println!("| {} | {what} | {measured} |", self.wallets.len());
        Ok(())
    }

    /// Sums up as the sequencer does; cells of a row.
    fn sums_up(&mut self) -> Result<String, Failed> {
        let before = peak(Reset::Yes)?;
        let begun = Instant::now();
        let (size, changes) = (self.ledger.size(), self.ledger.changes());
        let gathered = begun.elapsed();
        let tree = Arc::new(changes.make());
        let made = begun.elapsed();
        let most = peak(Reset::No)?;
        // What comes meanwhile is left out.
        self.calls(MEANWHILE)?;
        let totals = Totals {
            size,
            count: tree.count(),
            root: tree.root(),
        };
        let begun = Instant::now();
        self.ledger.stage_tree(tree);
        self.add(&Body::Totals(totals))?;
        let settled = begun.elapsed();
        let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
        Ok(format!(
            "{} | {} | {} MB | {} MB",
            ms(made),
            ms(gathered + settled),
            (most - before) >> 20,
            most >> 20,
        ))
    }
}

enum Reset {
    Yes,
    No,
}

/// The most memory that this process held resident since it was last reset, in bytes.
fn peak(reset: Reset) -> Result<u64, Failed> {
    if matches!(reset, Reset::Yes) {
        // proc(5): 5 resets VmHWM to what is resident now.
        fs::write("/proc/self/clear_refs", "5")?;
    }
    let peak = high_water("/proc/self/status");
    peak.ok_or_else(|| "/proc/self/status has no VmHWM".into())
}
