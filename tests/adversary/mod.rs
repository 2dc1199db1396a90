//! What a forger who holds the log's key can try, and what a sentinel sees.
//!
//! Wherever possible he signs receipts and checkpoint again and rebuilds the
//! tree, so that only the check in question can catch him. Each case says what
//! a fresh sentinel sees, which may be nothing at all, and what one sees that
//! verified the honest log before.

mod aggregates;
mod alarms;
mod contact;
mod content;
pub(crate) mod evidence;
mod history;
mod lookups;
mod peers;
mod quorum;
mod receipts;
mod tiles;
mod transport;
mod wallets;
mod watch;

use crate::forge::log::Log;
use crate::forge::server::{Forge, Site};
use crate::sentinel::{Pass, Sees, Sentinel};

/// The size at which returning sentinels verified the honest log.
const BEFORE: usize = 300;

/// The size that the log has when they return.
const AFTER: usize = 340;

/// A forge, sentinels that look at it, and what did not go as expected.
struct Scene {
    forge: Forge,
    failures: Vec<String>,
}

impl Scene {
    fn new(site: Site) -> Self {
        Self {
            forge: Forge::start(site),
            failures: vec![],
        }
    }

    /// Of the honest log of `size` entries.
    fn honest(size: usize) -> Self {
        Self::new(Site::new(Log::honest(size)))
    }

    /// A sentinel that has verified what is served now.
    fn returning(&self) -> Sentinel {
        let sentinel = Sentinel::fresh();
        let pass = sentinel.pass(&self.forge.url());
        pass.compare(&Sees::Verified)
            .unwrap_or_else(|e| panic!("the honest log: {e}"));
        sentinel
    }

    /// Serves the log of `size` entries after `bend`.
    fn serve(&self, size: usize, bend: impl FnOnce(&mut Site)) {
        let mut site = Site::new(Log::honest(size));
        bend(&mut site);
        self.forge.serve(site);
    }

    /// One pass, which must come to `expected`, with evidence that holds.
    fn sees(&mut self, name: &str, sentinel: &Sentinel, expected: &Sees) -> Pass {
        let pass = sentinel.pass(&self.forge.url());
        let vkey = self.forge.site().log.key().to_string();
        let held = pass
            .compare(expected)
            .and_then(|()| evidence::holds(&pass, &vkey));
        self.note(name, held);
        pass
    }

    /// One pass, of which the caller judges what it says.
    fn forge_pass(&self, sentinel: &Sentinel) -> Pass {
        sentinel.pass(&self.forge.url())
    }

    fn note(&mut self, name: &str, held: Result<(), String>) {
        self.failures
            .extend(held.err().map(|wrong| format!("{name}: {wrong}")));
    }

    /// Fails if anything did not go as expected.
    fn end(self) {
        assert!(
            self.failures.is_empty(),
            "{} cases:\n{}",
            self.failures.len(),
            self.failures.join("\n")
        );
    }
}

/// A way to bend something.
struct Way<T>(&'static str, fn(&mut T));

/// A way to bend something, and what every sentinel makes of it.
struct Caught<T>(&'static str, Sees, fn(&mut T));

/// One row of a table: a way to bend the site, whatever the log's size, and
/// what comes of it.
struct Case {
    name: &'static str,
    bend: fn(&mut Site),
    /// A sentinel that knows nothing.
    fresh: Sees,
    /// One that verified the first 300 entries, and finds 340.
    grown: Sees,
    /// One that verified 300, and finds 300.
    same: Sees,
}

/// Plays every row; after each, the honest log must verify for those who
/// remember it: no verdict of theirs may spoil their state.
fn play(cases: &[Case]) {
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    for Case {
        name,
        bend,
        fresh,
        grown,
        same,
    } in cases
    {
        scene.serve(AFTER, bend);
        scene.sees(&format!("{name}, fresh"), &Sentinel::fresh(), fresh);
        let twin = returning.twin();
        scene.sees(&format!("{name}, grown"), &twin, grown);
        scene.serve(AFTER, |_| ());
        scene.sees(&format!("{name}, honest again"), &twin, &Sees::Verified);
        scene.serve(BEFORE, bend);
        scene.sees(&format!("{name}, same size"), &returning.twin(), same);
    }
    scene.end();
}
