//! A pass's look at chains: every anchor of the log's contracts is compared
//! with the accepted tree, once.
//!
//! What was compared is remembered for each chain and contract, so that the
//! next pass asks for what is new. The verdict on the log itself does not wait
//! for chains: where they fall silent, only their part is open.

use protocol::entry::{Body, Entry};
use protocol::index::{Index, TreeSize};
use protocol::key::VerifierKey;
use protocol::name::Address;
use protocol::tile::WIDTH;

use super::{Session, Stop};
use crate::anchored::seen::{self, Seen};
use crate::anchored::{self, Anchored, First, Opened, Unsettled, open};
use crate::audit::{self, Item, Prefix, Waiting, Where};
use crate::chain::contract::{Anchor, Contract, Emitted};
use crate::chain::panel::{Block, Panel, Silence};
use crate::contrast;
use crate::fetch::Caches;
use crate::follow::{Findings, RawBundle};
use crate::judge::Judge;

/// Anchors that are compared together, and remembered then.
const COMPARED_AT_ONCE: u64 = 64;

impl From<Unsettled> for Stop {
    fn from(unsettled: Unsettled) -> Self {
        match unsettled {
            Unsettled::NoVerdict(why) => Self::NoVerdict(why),
            Unsettled::Misbehaviour(finding) => (*finding).into(),
        }
    }
}

impl From<Silence> for Stop {
    fn from(silence: Silence) -> Self {
        Self::NoVerdict(silence.to_string())
    }
}

impl Session {
    /// Compares what every chain keeps of the log; what is wrong goes to
    /// `findings`.
    pub(super) async fn anchors(
        &mut self,
        key: &VerifierKey,
        findings: &mut Findings,
    ) -> Result<(), Stop> {
        let (panels, silent) = self.settings.chains.panels().await;
        let mut silent: Vec<String> = silent.iter().map(ToString::to_string).collect();
        let known = match panels.is_empty() {
            true => None,
            false => self.first(key).await.map_err(|why| silent.push(why)).ok(),
        };
        for (panel, first) in known
            .iter()
            .flat_map(|first| panels.iter().map(move |p| (p, first)))
        {
            match self.on_chain((key, first), panel).await {
                Ok(anchored) => self.anchored.push(anchored),
                Err(Stop::NoVerdict(why)) => silent.push(why),
                Err(Stop::Misbehaviour(more)) => findings.append(more),
            }
        }
        self.unwatched
            .retain(|id| panels.iter().all(|panel| panel.chain_id() != *id));
        if findings.is_empty() {
            let unknown = anchored::unknown(self.settings.contract, &self.anchored, &silent);
            silent.extend(unknown);
        }
        if silent.is_empty() {
            return Ok(());
        }
        Err(Stop::NoVerdict(silent.join("; ")))
    }

    /// Entry 0, which must be the one that was verified.
    async fn first(&self, key: &VerifierKey) -> Result<First, String> {
        let first = First::fetch(&self.client, key, self.size()).await?;
        let accounts = self.trusted.as_ref().map(|trusted| &trusted.accounts);
        let verified = accounts.and_then(|a| a.contract());
        if verified.is_some_and(|verified| verified != first.log().contract()) {
            return Err("the log serves another entry 0 than the one that was verified".into());
        }
        Ok(first)
    }

    async fn on_chain(
        &mut self,
        (key, first): (&VerifierKey, &First),
        panel: &Panel,
    ) -> Result<Anchored, Stop> {
        // A chain before may have ended with the state taken: what is new is
        // never held against nothing.
        self.recall()?;
        let accounts = self.trusted.as_ref().map(|trusted| &trusted.accounts);
        let named = accounts.and_then(|a| a.anchored().get(&panel.chain_id()).copied());
        let given = self.settings.contract;
        let contract = match open(panel, first, given, named.is_some()).await? {
            Opened::Ours(contract) => contract,
            Opened::Nothing(contract, block) => {
                // Where the user names another, nobody looked at the log's own.
                let own = block.filter(|_| contract == first.log().contract());
                self.missing(key, panel, contract, named.zip(own)).await?;
                return Ok(Anchored::nowhere(panel.chain_id(), contract));
            }
        };
        let count = contract.count().await?;
        let mut seen = self.remembered(&contract, count).await?;
        let was_forked = contract.forked().await?;
        let mut wrong = Findings::default();
        let compared =
            self.compare_anchors((key, first), &contract, count, (&mut seen, was_forked));
        // A fork that the chain recorded is told whatever the log keeps quiet about.
        let unsettled = match compared.await {
            Ok(()) => None,
            Err(Stop::Misbehaviour(found)) => {
                wrong.append(found);
                None
            }
            Err(Stop::NoVerdict(why)) => Some(why),
        };
        if was_forked {
            // It was not, as of what is stored.
            let from = match seen.block {
                Some((block, _)) => Some(block),
                None => anchored::begins(&contract, count).await?,
            };
            wrong.push(anchored::forked(&contract, (first, key), from).await?);
        }
        if !wrong.is_empty() {
            return Err(Stop::Misbehaviour(wrong));
        }
        if let Some(why) = unsettled {
            return Err(Stop::NoVerdict(why));
        }
        // Anyone can deploy and post: a chain that the log does not name, and
        // nobody asked for, promises nothing.
        let retired = contract.retired().await?;
        if (named.is_some() || given.is_some()) && !retired {
            self.in_time(key, &contract, (&seen, named)).await?;
        }
        Ok(Anchored {
            chain_id: panel.chain_id(),
            contract: contract.address(),
            count,
            retired,
            anchor: seen.newest,
        })
    }

    /// There is no contract, as of the block; the entry `named` says that
    /// there is one.
    async fn missing(
        &self,
        key: &VerifierKey,
        panel: &Panel,
        contract: Address,
        named: Option<(Index, Block)>,
    ) -> Result<(), Stop> {
        let Some((named, block)) = named else {
            return Ok(());
        };
        let since = self.time_of(key, named).await?;
        let interval = self.settings.anchor_interval.as_secs();
        // Until then it may only not be final yet.
        if since.saturating_add(interval.saturating_mul(2)) >= block.time {
            return Ok(());
        }
        let there = Where {
            chain_id: panel.chain_id(),
            contract,
            block,
        };
        let why = format!("there is none, though entry {named} says so since {since}");
        Err(audit::anchor_contract(&there, &why).into())
    }

    /// What was seen before, which must still be there.
    async fn remembered(&self, contract: &Contract, count: u64) -> Result<Seen, Stop> {
        let panel = contract.panel();
        let (dir, chain_id) = (self.store.dir(), panel.chain_id());
        let seen = Seen::load(dir, chain_id, contract.address())?;
        let Some((number, hash)) = seen.block else {
            return Ok(seen);
        };
        if contract.block().number < number {
            return Err(Stop::NoVerdict(format!(
                "chain {chain_id}: block {number} was final before, now {} is the newest final one: \
                 a node lags behind",
                contract.block().number
            )));
        }
        if panel.block(number).await?.hash != hash {
            let file = seen::path(dir, chain_id, contract.address());
            return Err(Stop::NoVerdict(format!(
                "chain {chain_id}: final block {number} was {hash} before and is another one now: the \
                 nodes are of another chain; where that is right, move {} away",
                file.display()
            )));
        }
        let Some((before, _)) = &seen.newest else {
            return Ok(seen);
        };
        let now = match before.index < count {
            true => Some(contract.anchor(before.index).await?),
            false => None,
        };
        let changed = audit::anchor_history(&anchored::place(contract), before, now.as_ref());
        changed.map_or(Ok(seen), |finding| Err(finding.into()))
    }

    /// Compares the anchors that are new, a few at a time. What is seen of a
    /// forked log is not stored: it stays a finding.
    async fn compare_anchors(
        &mut self,
        (key, first): (&VerifierKey, &First),
        contract: &Contract,
        count: u64,
        (seen, forked): (&mut Seen, bool),
    ) -> Result<(), Stop> {
        let (panel, block) = (contract.panel(), contract.block());
        let stored = seen.block;
        loop {
            let from = seen.count();
            let to = count.min(from + COMPARED_AT_ONCE);
            let anchors = contract.anchors(from..to).await?;
            if let (Some((before, _)), Some(next)) = (&seen.newest, anchors.first())
                && next.size <= before.size
            {
                let what = format!("anchor {from} is not larger than the one before");
                return Err(panel.contradiction(what).into());
            }
            let start = match (&seen.newest, anchors.first(), stored) {
                (_, None, Some((number, _))) => number + 1,
                (Some((_, emitted)), ..) => emitted.block,
                (None, Some(anchor), _) => {
                    panel
                        .first_block_at(anchor.block_time, block.number)
                        .await?
                }
                // Without anchors there is no block from which on there are events.
                (None, None, None) => block.number + 1,
            };
            let emitted = contract.emitted(&anchors, start, to == count).await?;
            self.hold_against((key, first), contract, (&anchors, &emitted))
                .await?;
            let newest = anchors.last().copied().zip(emitted.last().copied());
            seen.newest = newest.or(seen.newest);
            if !forked {
                seen.block = Some((block.number, block.hash));
                seen.save(self.store.dir(), panel.chain_id(), contract.address())?;
            }
            if to == count {
                return Ok(());
            }
        }
    }

    /// Anchored sizes and roots, against the accepted tree.
    async fn hold_against(
        &mut self,
        (key, first): (&VerifierKey, &First),
        contract: &Contract,
        (anchors, emitted): (&[Anchor], &[Emitted]),
    ) -> Result<(), Stop> {
        let (Some(largest), Some(last)) = (anchors.last(), emitted.last()) else {
            return Ok(());
        };
        if largest.size > self.size() {
            let newest = self.wait_for(key, largest.size).await?;
            let newest = self.not_smaller(key, newest).await?;
            if newest.size() > self.size() {
                self.advance(key, &newest, &mut Judge::of_nothing()).await?;
            }
        }
        let Some(accepted) = &self.accepted else {
            return Ok(());
        };
        let there = anchored::place(contract);
        let patience = self.patience().as_secs();
        let less = audit::anchor_withheld(&there, (largest, last), accepted, patience);
        if let Some(finding) = less {
            return Err(finding.into());
        }
        let shown = anchors
            .iter()
            .take_while(|anchor| anchor.size <= accepted.size());
        let sizes: Vec<u64> = shown.map(|anchor| anchor.size).collect();
        let proven = contrast::roots(&self.client, accepted, &sizes).await;
        let proven = proven.map_err(Stop::NoVerdict)?;
        for ((anchor, emitted), (root, proof)) in anchors.iter().zip(emitted).zip(&proven) {
            if anchor.root != *root {
                let prefix = Prefix {
                    newest: accepted,
                    root: *root,
                    proof,
                };
                let wrong = anchored::differs(contract, (first, key), (anchor, emitted), prefix);
                return Err(wrong.await?.into());
            }
        }
        Ok(())
    }

    /// Entries that want to be anchored are, within two intervals.
    async fn in_time(
        &self,
        key: &VerifierKey,
        contract: &Contract,
        (seen, named): (&Seen, Option<Index>),
    ) -> Result<(), Stop> {
        let covered = seen.newest.map_or(0, |(anchor, _)| anchor.size);
        let Some(mut waiting) = self.waiting(key, covered).await? else {
            return Ok(());
        };
        if let (None, Some(named)) = (seen.newest, named) {
            // Nothing could be anchored before there was the contract.
            waiting.since = waiting.since.max(self.time_of(key, named).await?);
        }
        let there = anchored::place(contract);
        let interval = self.settings.anchor_interval.as_secs();
        let so_far = (seen.count(), covered);
        let late = audit::anchor_overdue(&there, so_far, &waiting, interval);
        late.map_or(Ok(()), |finding| Err(finding.into()))
    }

    /// The first usage or binding entry from index `from` on.
    async fn waiting(&self, key: &VerifierKey, from: u64) -> Result<Option<Waiting>, Stop> {
        let Some(size) = TreeSize::new(self.size()).filter(|size| from < size.get()) else {
            return Ok(None);
        };
        for n in from / WIDTH..size.get().div_ceil(WIDTH) {
            let bundle = RawBundle::fetch(&self.client, n, size, Caches::Allowed).await?;
            let entries = bundle.entries().into_iter().zip(bundle.signatures());
            for (at, (bytes, signature)) in (n * WIDTH..).zip(entries) {
                let wants = match Entry::parse(bytes) {
                    Ok(Entry::Known {
                        time,
                        body: Body::Usage(_) | Body::Binding(_),
                    }) if at >= from => time.secs(),
                    _ => continue,
                };
                // The receipt says that it is the entry that was read before.
                let item = Index::new(at).map(|at| Item::verify(at, bytes, signature, key));
                if item.is_some_and(|item| item.signed()) {
                    let (index, since) = (at, wants);
                    return Ok(Some(Waiting { index, since }));
                }
            }
        }
        Ok(None)
    }

    /// The time of an entry that was verified.
    async fn time_of(&self, key: &VerifierKey, index: Index) -> Result<u64, Stop> {
        let (n, at) = (index.get() / WIDTH, index.get() % WIDTH);
        let size =
            TreeSize::new(self.size()).ok_or_else(|| Stop::NoVerdict("no entries".into()))?;
        let bundle = RawBundle::fetch(&self.client, n, size, Caches::Allowed).await?;
        let entries = bundle.entries().into_iter().zip(bundle.signatures());
        let found = (0..).zip(entries).find(|(i, _)| *i == at);
        let time = found.and_then(|(_, (bytes, signature))| {
            let item = Item::verify(index, bytes, signature, key);
            let entry = Entry::parse(bytes).ok().filter(|_| item.signed())?;
            Some(entry.time().secs())
        });
        let other = || Stop::NoVerdict(format!("entry {index} is served otherwise than before"));
        time.ok_or_else(other)
    }
}
