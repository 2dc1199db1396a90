//! Sends transactions so that each is sent once: signed, taken down,
//! broadcast, followed until nothing can undo it.
//!
//! A command that is cut off at any await leaves nothing behind that the next
//! one does not mend: what was broadcast is on the disk before.
//!
//! Out of scope: what is worth sending (see [`crate::run`]).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy_consensus::TxEip1559;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};

use crate::network::{ContractError, Network, refusal};
use crate::outbox::{Attempt, Mined, Outbox, OutboxError, Post};
use crate::purse::Purse;
use crate::rpc::{Call, Fees, LATEST, Rpc, RpcError};

/// It is said in time when the gas key can pay for fewer posts at the cap.
const LOW: u64 = 10;

/// The gas limit of a post to a log of 2^24 entries.
const POST_GAS: u64 = 144_000;

/// How long a node that is behind may take to get to where others were.
const LAG: Duration = Duration::from_secs(30);

/// How the job behaves.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// The most that is paid for a unit of gas, in wei.
    pub fee_cap: u128,
    /// How long a transaction may wait for a block before it is sent with higher fees.
    pub stuck_after: Duration,
    /// How long a command waits for a block before it leaves the rest to the next one.
    pub patience: Duration,
    /// How often the chain is asked.
    pub pace: Duration,
}

/// Sends from one gas key on one chain.
#[derive(Debug)]
pub struct Job {
    rpc: Rpc,
    network: Network,
    purse: Purse,
    outbox: Outbox,
    manner: Manner,
    /// What the node said to the last broadcast, if it refused.
    refusal: Option<String>,
}

/// Why something is not sent, or not known to be in the chain.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The node.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The contract.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// The outbox.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// Gas is too dear.
    #[error(
        "gas costs {needed} wei a unit now, more than the cap of {cap} (--max-fee); nothing was sent"
    )]
    FeeCap {
        /// Base fee and tip.
        needed: u128,
        /// The cap.
        cap: u128,
    },
    /// The gas key can't pay.
    #[error(
        "the gas key {purse} has {balance} wei on chain {chain}, needed are up to {needed}; nothing was sent"
    )]
    EmptyPurse {
        /// Whose.
        purse: Address,
        /// Where.
        chain: u64,
        /// What is there.
        balance: U256,
        /// What the transaction may cost.
        needed: U256,
    },
    /// The node has not seen what is final already, or the outbox is another's.
    #[error(
        "the node counts {found} transactions of the gas key, expected {expected} at least: it is behind, or the chain lost what was final; nothing was sent"
    )]
    Behind {
        /// What the outbox says.
        expected: u64,
        /// What the node says.
        found: u64,
    },
    /// The node lacks blocks that were seen before.
    #[error(
        "the node's newest block is {found}, and a transaction was seen in block {expected}: it is behind; nothing was sent"
    )]
    Lags {
        /// What was seen.
        expected: u64,
        /// What the node says.
        found: u64,
    },
    /// No block yet.
    #[error(
        "{what} is signed, broadcast as {hash}, and in no block yet: {why}; it stays in the outbox, and the next run goes on with it"
    )]
    Pending {
        /// What it does.
        what: String,
        /// Its newest form.
        hash: B256,
        /// What stands in the way.
        why: String,
    },
}

impl Job {
    /// Takes the outbox of this gas key on this chain.
    ///
    /// # Errors
    /// No answer, another chain than `network`, or the outbox can't be used.
    pub async fn open(
        rpc: Rpc,
        network: Network,
        purse: Purse,
        folder: &std::path::Path,
        manner: Manner,
    ) -> Result<Self, JobError> {
        require_chain(&rpc, network).await?;
        let outbox = Outbox::open(folder, network.id(), purse.address()).await?;
        Ok(Self {
            rpc,
            network,
            purse,
            outbox,
            manner,
            refusal: None,
        })
    }

    /// The node.
    pub fn rpc(&self) -> &Rpc {
        &self.rpc
    }

    /// The chain.
    pub fn network(&self) -> Network {
        self.network
    }

    /// Who pays.
    pub fn purse(&self) -> Address {
        self.purse.address()
    }

    /// How often the chain is asked.
    pub fn pace(&self) -> Duration {
        self.manner.pace
    }

    /// What is not final yet.
    pub fn posts(&self) -> &[Post] {
        self.outbox.posts()
    }

    /// The number of the node's newest block, once that is no older than the
    /// posts that were seen: of several nodes behind one address some may lag.
    ///
    /// # Errors
    /// It stays behind, or gives no answer.
    pub async fn height(&self) -> Result<u64, JobError> {
        let begun = tokio::time::Instant::now();
        loop {
            let (found, expected) = (self.rpc.height().await?, self.outbox.height());
            if found >= expected {
                return Ok(found);
            }
            if begun.elapsed() >= self.manner.patience.min(LAG) {
                return Err(JobError::Lags { expected, found });
            }
            tokio::time::sleep(self.manner.pace).await;
        }
    }

    /// Takes down how many anchors a contract has. Fewer than before means
    /// that the chain went back, or that the node lies: that is said.
    ///
    /// # Errors
    /// The outbox can't be written.
    pub async fn count(&mut self, contract: Address, count: u64) -> Result<(), JobError> {
        let before = self.outbox.count(contract, count).await?;
        if count < before {
            tracing::error!(
                before,
                count,
                "the contract had more anchors before: the chain was reorganised, or the node lies"
            );
        }
        Ok(())
    }

    /// Asks the contract whether it would take this, without sending it.
    ///
    /// # Errors
    /// It would not, or there is no answer.
    pub async fn preflight(&self, to: Address, data: &Bytes) -> Result<(), ContractError> {
        let call = self.call(to, data);
        let answer = self.rpc.call(&call, LATEST).await;
        answer.map_err(refusal).map(drop)
    }

    /// Signs a transaction, takes it down and broadcasts it; then
    /// [`Job::follow`] it. All earlier ones must be in blocks.
    ///
    /// # Errors
    /// Nothing was sent.
    pub async fn send(&mut self, what: String, to: Address, data: Bytes) -> Result<(), JobError> {
        // Again before anything is signed: what the address leads to may have changed.
        require_chain(&self.rpc, self.network).await?;
        let estimate = self.rpc.estimate(&self.call(to, &data)).await;
        let gas = estimate.map_err(refusal)?;
        let gas = gas.saturating_add(gas / 5);
        let (max_fee, tip) = self.fees(self.rpc.fees().await?)?;
        self.refusal = None;
        self.require_funds(gas, max_fee).await?;
        let nonce = self.next_nonce().await?;
        let mut post = Post {
            what,
            to,
            data,
            gas,
            nonce,
            attempts: vec![],
            mined: None,
        };
        post.attempts.push(self.sign(&post, max_fee, tip));
        let raw = post.newest().raw.clone();
        tracing::info!(what = post.what, nonce, hash = %post.newest().hash, "sending");
        self.outbox.add(post).await?;
        self.broadcast(&raw).await;
        Ok(())
    }

    /// Follows what is in the outbox until every transaction is in a block;
    /// gives what became of them.
    ///
    /// # Errors
    /// Not within [`Manner::patience`]: the outbox keeps it.
    pub async fn follow(&mut self) -> Result<Vec<(Post, Mined)>, JobError> {
        let begun = tokio::time::Instant::now();
        loop {
            let looked = self.look().await;
            let seen = |post: &Post| post.mined.map(|mined| (post.clone(), mined));
            let waiting = self.posts().iter().find(|post| post.mined.is_none());
            let Some(waiting) = waiting else {
                looked?;
                return Ok(self.posts().iter().filter_map(seen).collect());
            };
            if begun.elapsed() >= self.manner.patience {
                let refusal = self.refusal.as_ref();
                let refusal = refusal.map(|said| format!("no block took it, and {said}"));
                let why = looked.err().map(|error| error.to_string()).or(refusal);
                return Err(JobError::Pending {
                    what: waiting.what.clone(),
                    hash: waiting.newest().hash,
                    why: why.unwrap_or_else(|| "no block took it".into()),
                });
            }
            tokio::time::sleep(self.manner.pace).await;
        }
    }

    /// Looks once where each transaction is; sends again what is in no block,
    /// with higher fees if it waits for long; forgets what is final.
    ///
    /// # Errors
    /// No answer, or the outbox can't be written.
    pub async fn look(&mut self) -> Result<(), JobError> {
        if self.posts().is_empty() {
            return Ok(());
        }
        for place in 0..self.posts().len() {
            let mined = self.find(&self.posts()[place]).await?;
            let post = &self.posts()[place];
            if post.mined.is_some() && mined.is_none() {
                tracing::warn!(what = post.what, "fell out of the chain; sending it again");
            }
            self.outbox.see(place, mined);
        }
        self.forget().await?;
        for place in 0..self.posts().len() {
            if self.posts()[place].mined.is_none() {
                self.push(place).await?;
            }
        }
        Ok(())
    }

    async fn find(&self, post: &Post) -> Result<Option<Mined>, RpcError> {
        for attempt in &post.attempts {
            if let Some(receipt) = self.rpc.receipt(attempt.hash).await? {
                let hash = attempt.hash;
                return Ok(Some(Mined { hash, receipt }));
            }
        }
        Ok(None)
    }

    /// Drops what is final, and what can never come because something else is
    /// final in its place.
    async fn forget(&mut self) -> Result<(), JobError> {
        let final_block = self.rpc.finalized().await?;
        // `None` where the node keeps no states that old.
        let final_nonce = match self.rpc.nonce(self.purse(), "finalized").await {
            Ok(nonce) => Some(nonce),
            Err(RpcError::Refused { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let is_taken = |post: &Post| final_nonce.is_some_and(|nonce| post.nonce < nonce);
        for post in self.posts() {
            if post.mined.is_none() && is_taken(post) {
                tracing::error!(
                    what = post.what,
                    nonce = post.nonce,
                    "something else was sent with the gas key at this nonce; give the job a key of its own"
                );
            }
        }
        let settled = self.outbox.settle(|post| match post.mined {
            // Both must say so: a receipt may be what only one node believes.
            Some(mined) => {
                mined.receipt.block <= final_block && (final_nonce.is_none() || is_taken(post))
            }
            None => is_taken(post),
        });
        Ok(settled.await?)
    }

    /// Sends a post again: the same bytes, or a form with higher fees.
    async fn push(&mut self, place: usize) -> Result<(), JobError> {
        let post = &self.posts()[place];
        let newest = post.newest();
        if now().saturating_sub(newest.time) < self.manner.stuck_after.as_secs() {
            let raw = newest.raw.clone();
            self.broadcast(&raw).await;
            return Ok(());
        }
        // Nodes take a replacement only if both fees rise by a tenth at least.
        let raised = |fee: u128| fee.saturating_add((fee / 8).max(1));
        let market = self.rpc.fees().await?;
        let tip = raised(newest.tip).max(market.tip);
        let max_fee = raised(newest.max_fee).max(market.base.saturating_add(tip));
        if max_fee > self.manner.fee_cap {
            let cap = self.manner.fee_cap;
            tracing::error!(
                what = post.what,
                max_fee,
                cap,
                "stuck, and higher fees are above the cap"
            );
            let raw = newest.raw.clone();
            self.broadcast(&raw).await;
            return Ok(());
        }
        let attempt = self.sign(post, max_fee, tip);
        tracing::warn!(what = post.what, max_fee, hash = %attempt.hash, "stuck; sending it with higher fees");
        let raw = attempt.raw.clone();
        self.outbox.replace(place, attempt).await?;
        self.broadcast(&raw).await;
        Ok(())
    }

    /// What the node says to a broadcast proves nothing: receipts do. It may
    /// tell why there is none.
    async fn broadcast(&mut self, raw: &Bytes) {
        let sent = self.rpc.send(raw).await;
        if let Err(error) = &sent {
            tracing::debug!(error = error as &dyn std::error::Error, "broadcast");
        }
        self.refusal = match sent {
            // It has it already.
            Err(RpcError::Refused { message, .. }) if message.contains("already") => None,
            sent => sent.err().map(|error| error.to_string()),
        };
    }

    fn call(&self, to: Address, data: &Bytes) -> Call {
        Call {
            from: self.purse(),
            to: Some(to),
            data: data.clone(),
        }
    }

    /// Twice the base fee leaves room for six full blocks, where the cap does.
    fn fees(&self, market: Fees) -> Result<(u128, u128), JobError> {
        let (needed, cap) = (market.base.saturating_add(market.tip), self.manner.fee_cap);
        if needed > cap {
            return Err(JobError::FeeCap { needed, cap });
        }
        let max_fee = needed.saturating_add(market.base).min(cap);
        Ok((max_fee, market.tip))
    }

    async fn require_funds(&self, gas: u64, max_fee: u128) -> Result<(), JobError> {
        let balance = self.rpc.balance(self.purse()).await?;
        let needed = U256::from(gas) * U256::from(max_fee);
        if balance < needed {
            return Err(JobError::EmptyPurse {
                purse: self.purse(),
                chain: self.network.id(),
                balance,
                needed,
            });
        }
        let cap = U256::from(self.manner.fee_cap);
        let low = U256::from(LOW * POST_GAS).saturating_mul(cap);
        if balance < low {
            tracing::error!(
                purse = %self.purse(),
                %balance,
                expected = %low,
                "the gas key runs low: it can't pay for {LOW} posts at the cap (--max-fee)"
            );
        }
        Ok(())
    }

    /// From the outbox, which knows what the chain does not yet.
    async fn next_nonce(&self) -> Result<u64, JobError> {
        let expected = self.outbox.next_nonce();
        let found = self.rpc.nonce(self.purse(), LATEST).await?;
        if found < expected {
            return Err(JobError::Behind { expected, found });
        }
        if found > expected && expected > 0 {
            tracing::warn!(
                expected,
                found,
                "something else was sent with the gas key; give the job a key of its own"
            );
        }
        Ok(found)
    }

    fn sign(&self, post: &Post, max_fee: u128, tip: u128) -> Attempt {
        let (raw, hash) = self.purse.sign(TxEip1559 {
            chain_id: self.network.id(),
            nonce: post.nonce,
            gas_limit: post.gas,
            max_fee_per_gas: max_fee,
            max_priority_fee_per_gas: tip,
            to: TxKind::Call(post.to),
            value: U256::ZERO,
            access_list: Default::default(),
            input: post.data.clone(),
        });
        Attempt {
            hash,
            raw,
            max_fee,
            tip,
            time: now(),
        }
    }
}

/// Requires that a node is on this chain.
///
/// # Errors
/// It is on another, or gave no answer.
pub async fn require_chain(rpc: &Rpc, network: Network) -> Result<(), ContractError> {
    let found = rpc.chain_id().await?;
    if found == network.id() {
        return Ok(());
    }
    Err(ContractError::Chain {
        expected: network.id(),
        found,
    })
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
