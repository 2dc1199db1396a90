//! What the log says to EVM chains: its published checkpoints, signed with the
//! log's secp256k1 key (PROTOCOL.md section 13.1), so that anybody can anchor them.
//!
//! Made when somebody asks, once for a published checkpoint: the way of a
//! record into the log does not wait for it.

use std::fmt;
use std::sync::Arc;

use k256::ecdsa::SigningKey;
use protocol::anchor::ChainLog;
use protocol::entry::Entry;
use protocol::index::{Index, Time};
use tokio::sync::Mutex;

use super::{Api, store_failed};
use crate::log::publish::Published;
use crate::reply::ApiError;
use crate::store::StoreError;

/// The EVM key of a log, and what it signed last.
#[derive(Clone)]
pub struct Notary {
    log: ChainLog,
    key: SigningKey,
    newest: Arc<Mutex<Option<Statement>>>,
}

/// A published checkpoint as contracts know it.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    pub(super) published: Published,
    /// Of the last entry that the checkpoint covers.
    pub(super) time: Time,
    /// r, s and v.
    pub(super) signature: [u8; 65],
}

impl Notary {
    /// Signs for `log`, whose EVM key `key` is.
    pub fn new(log: ChainLog, key: SigningKey) -> Self {
        Self {
            log,
            key,
            newest: Arc::default(),
        }
    }

    /// Deterministic (RFC 6979), so that gateways on one log sign alike; s is low.
    fn sign(&self, published: Published, time: Time) -> Statement {
        let (size, root) = (published.checkpoint.size(), published.checkpoint.root());
        let digest = self.log.checkpoint_digest(size, root, time);
        let signed = self.key.sign_prehash_recoverable(&digest);
        let (rs, parity) = signed.expect("a digest has 32 bytes");
        let mut signature = [0; 65];
        signature[..64].copy_from_slice(&rs.to_bytes());
        signature[64] = 27 + parity.to_byte();
        Statement {
            published,
            time,
            signature,
        }
    }
}

impl fmt::Debug for Notary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Notary({})", self.log.evm_key())
    }
}

impl Api {
    /// The newest published checkpoint, signed with the EVM key.
    pub(super) async fn statement(&self) -> Result<Statement, ApiError> {
        let mut newest = self.notary.newest.lock().await;
        let published = self.published.borrow().clone();
        let (size, root) = (published.checkpoint.size(), published.checkpoint.root());
        if let Some(signed) = newest.as_mut() {
            let checkpoint = &signed.published.checkpoint;
            if (checkpoint.size(), checkpoint.root()) == (size, root) {
                // Cosignatures may have come to it.
                signed.published = published;
                return Ok(signed.clone());
            }
        }
        let last = size.get().checked_sub(1).and_then(Index::new);
        let record = match last {
            Some(index) => self.store.record(index).await.map_err(store_failed)?,
            None => None,
        };
        let entry = record.and_then(|record| Entry::parse(&record.entry).ok());
        let damaged = StoreError::Damaged("the last published entry can't be read");
        let time = entry.ok_or_else(|| store_failed(damaged))?.time();
        let signed = self.notary.sign(published, time);
        *newest = Some(signed.clone());
        Ok(signed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::checkpoint::Checkpoint;
    use protocol::hash::Hash;
    use protocol::index::TreeSize;
    use protocol::key::{Origin, Signer};
    use protocol::name::Address;

    #[test]
    fn signatures_are_deterministic_low_and_recover_to_the_key() {
        for seed in 1..64 {
            let origin = Origin::parse("log.example.org").expect("valid");
            let signer = Signer::new(origin.clone(), &[seed; 32]);
            let key = SigningKey::from_slice(&[seed; 32]).expect("below the order");
            let address = alloy_primitives::Address::from_private_key(&key);
            let evm_key = Address::from_bytes(address.into_array());
            let log = ChainLog::new(signer.verifier(), evm_key);
            let size = TreeSize::new(u64::from(seed)).expect("small");
            let checkpoint = Checkpoint::new(origin, size, Hash::of(&[seed]));
            let published = Published {
                note: checkpoint.seal(&signer).into(),
                checkpoint,
            };
            let time = Time::from_secs(1_760_000_000).expect("small");
            let notary = Notary::new(log.clone(), key);
            let signed = notary.sign(published.clone(), time);
            assert_eq!(signed.signature, notary.sign(published, time).signature);
            let digest = log.checkpoint_digest(size, Hash::of(&[seed]), time);
            let signature =
                alloy_primitives::Signature::from_raw_array(&signed.signature).expect("r, s and v");
            assert!(signature.normalize_s().is_none(), "s is low already");
            let recovered = signature.recover_address_from_prehash(&digest.into());
            assert_eq!(recovered.expect("a point"), address);
        }
    }
}
