//! Signing receipts: what a record costs most.
//!
//! Ed25519 is deterministic, so that it does not matter who computes it. For
//! receipts, of which there are thousands a second, AWS-LC does, in half the
//! time that [`protocol::key::Signer`] takes; that one signs checkpoints.

use std::fmt;

use aws_lc_rs::signature::Ed25519KeyPair;
use protocol::hash::Hash;
use protocol::index::Index;
use protocol::key::VerifierKey;
use protocol::receipt::Receipt;

/// Signs the receipts of one log.
pub struct ReceiptSigner {
    verifier: VerifierKey,
    key: Ed25519KeyPair,
}

impl ReceiptSigner {
    /// The signer of the log whose key `verifier` is and `seed` gives.
    ///
    /// # Panics
    /// If they don't belong together.
    pub fn new(verifier: VerifierKey, seed: &[u8; 32]) -> Self {
        let key = Ed25519KeyPair::from_seed_and_public_key(seed, verifier.as_bytes());
        let key = key.expect("the verifier is the seed's");
        Self { verifier, key }
    }

    /// The signature of the receipt for the entry of this leaf hash.
    pub fn sign(&self, index: Index, leaf: Hash) -> [u8; 64] {
        let receipt = Receipt::new(self.verifier.origin().clone(), index, leaf);
        let signature = self.key.sign(receipt.text().as_bytes());
        *signature
            .as_ref()
            .first_chunk()
            .expect("64 bytes (RFC 8032)")
    }
}

impl fmt::Debug for ReceiptSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiptSigner({})", self.verifier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::key::{Origin, Signer};

    #[test]
    fn signatures_are_those_of_the_other_implementation() {
        for seed in 0..32 {
            let origin = Origin::parse("log.example.org").expect("valid");
            let signer = Signer::new(origin.clone(), &[seed; 32]);
            let fast = ReceiptSigner::new(signer.verifier().clone(), &[seed; 32]);
            for n in [0, 1, 255, 1 << 40] {
                let (index, leaf) = (Index::new(n).expect("small"), Hash::of(&[seed]));
                let receipt = Receipt::new(origin.clone(), index, leaf);
                let signature = fast.sign(index, leaf);
                assert_eq!(signature, receipt.sign(&signer));
                assert!(receipt.signed_by(signer.verifier(), &signature));
            }
        }
    }
}
