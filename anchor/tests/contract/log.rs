//! A log that signs what it is told to, and its contract on a chain.

use alloy_primitives::{Address, B256, Bytes};
use anchor::contract::TallystickAnchor::{
    TallystickAnchorErrors as Refusal, postCall, reportForkCall, retireCall,
};
use k256::ecdsa::{RecoveryId, Signature, SigningKey};
use protocol::anchor::ChainLog;
use protocol::hash::Hash;
use protocol::index::{Time, TreeSize};
use protocol::key::{Origin, Signer};

use crate::chain::{Chain, Done, of};
use crate::reference::Tree;

pub(crate) struct Log {
    pub(crate) tree: Tree,
    key: SigningKey,
    pub(crate) chain_log: ChainLog,
}

/// Its contract, on a chain of its own.
pub(crate) struct Deployed {
    pub(crate) chain: Chain,
    pub(crate) contract: Address,
    pub(crate) log: Log,
}

impl Log {
    /// The log of an origin; keys follow from `seed`.
    pub(crate) fn new(origin: &str, seed: u8) -> Self {
        let origin = Origin::parse(origin).expect("valid");
        let key = SigningKey::from_slice(&[seed; 32]).expect("below the order");
        let address = Address::from_private_key(&key);
        let signer = Signer::new(origin, &[seed; 32]);
        let evm_key = protocol::name::Address::from_bytes(address.into_array());
        Self {
            tree: Tree::new(),
            key,
            chain_log: ChainLog::new(signer.verifier(), evm_key),
        }
    }

    pub(crate) fn root(&self, size: u64) -> Hash {
        self.tree.head(0..size)
    }

    /// The digest of what it says of a size.
    pub(crate) fn digest(&self, size: u64, root: Hash, time: u64) -> [u8; 32] {
        let size = TreeSize::new(size).expect("small");
        let time = Time::from_secs(time).expect("small");
        self.chain_log.checkpoint_digest(size, root, time)
    }

    /// Its signature over a digest: r, s and v.
    pub(crate) fn sign(&self, digest: &[u8; 32]) -> [u8; 65] {
        let (signature, parity) = self.key.sign_prehash_recoverable(digest).expect("32 bytes");
        bytes(signature, parity)
    }

    /// The signature of what it says of a size.
    pub(crate) fn signed(&self, size: u64, root: Hash, time: u64) -> Bytes {
        self.sign(&self.digest(size, root, time)).into()
    }

    /// An honest post of `to` entries onto `from` anchored ones.
    pub(crate) fn post(&self, from: u64, to: u64) -> postCall {
        let proof = match from {
            0 => vec![],
            _ => self.tree.subproof(from, 0..to, true),
        };
        postCall {
            size: to,
            root: word(self.root(to)),
            time: time_of(to),
            proof: proof.into_iter().map(word).collect(),
            signature: self.signed(to, self.root(to), time_of(to)),
        }
    }

    /// A report of two roots for `size`, genuine where they differ.
    pub(crate) fn fork(&self, size: u64, root: Hash, other: Hash) -> reportForkCall {
        reportForkCall {
            size,
            root: word(root),
            time: 7,
            signature: self.signed(size, root, 7),
            otherRoot: word(other),
            otherTime: 8,
            otherSignature: self.signed(size, other, 8),
        }
    }

    /// Its retirement in favour of another log, or of none.
    pub(crate) fn retirement(&self, successor: Option<&ChainLog>) -> retireCall {
        retireCall {
            origin_: successor.map_or(String::new(), |log| log.origin().to_string()),
            logKey_: successor.map_or(B256::ZERO, |log| B256::from(*log.log_key())),
            evmKey_: successor.map_or(Address::ZERO, |log| of(log.evm_key())),
            signature: self
                .sign(&self.chain_log.retirement_digest(successor))
                .into(),
        }
    }
}

impl Deployed {
    pub(crate) fn new() -> Self {
        let log = Log::new("log.example.org", 1);
        let mut chain = Chain::new();
        let (contract, _) = chain.deploy(&log.chain_log);
        Self {
            chain,
            contract,
            log,
        }
    }

    /// Anchors honest posts of these sizes.
    pub(crate) fn with(sizes: &[u64]) -> Self {
        let mut deployed = Self::new();
        let mut from = 0;
        for &to in sizes {
            deployed.chain.set_time(block_time_of(to));
            let post = deployed.log.post(from, to);
            deployed.send(&post).expect("honest");
            from = to;
        }
        deployed
    }

    pub(crate) fn send(&mut self, call: &impl alloy_sol_types::SolCall) -> Result<Done, Refusal> {
        self.chain.send(self.contract, call)
    }

    pub(crate) fn simulate(
        &mut self,
        call: &impl alloy_sol_types::SolCall,
    ) -> Result<Done, Refusal> {
        self.chain.simulate(self.contract, call)
    }

    pub(crate) fn call<C: alloy_sol_types::SolCall>(
        &mut self,
        call: &C,
    ) -> Result<C::Return, Refusal> {
        self.chain.call(self.contract, call)
    }
}

pub(crate) fn word(hash: Hash) -> B256 {
    B256::from(*hash.as_bytes())
}

/// The time of the last of `size` entries.
pub(crate) fn time_of(size: u64) -> u64 {
    1_760_000_000 + size.min(1 << 40)
}

/// The time of the block that anchors `size` entries.
pub(crate) fn block_time_of(size: u64) -> u64 {
    time_of(size) + 30
}

/// The signature that verifies as well as this one, with s in the upper half of the order.
pub(crate) fn twin(signature: &[u8]) -> Bytes {
    let (r, s) = Signature::from_slice(&signature[..64])
        .expect("a signature")
        .split_scalars();
    let high = Signature::from_scalars(r, -s).expect("not zero");
    bytes(high, RecoveryId::new(signature[64] == 27, false)).into()
}

fn bytes(signature: Signature, parity: RecoveryId) -> [u8; 65] {
    let mut bytes = [0; 65];
    bytes[..64].copy_from_slice(&signature.to_bytes());
    bytes[64] = 27 + parity.to_byte();
    bytes
}

/// The hashes with one changed, left out or added, in every place.
pub(crate) fn bent(proof: &[B256]) -> Vec<Vec<B256>> {
    let other = word(Hash::of(b"another hash"));
    let mut all = Vec::new();
    for i in 0..=proof.len() {
        let mut longer = proof.to_vec();
        longer.insert(i, other);
        all.push(longer);
    }
    for i in 0..proof.len() {
        let mut flipped = proof.to_vec();
        flipped[i].0[i % 32] ^= 1 << (i % 8);
        all.push(flipped);
        let mut shorter = proof.to_vec();
        shorter.remove(i);
        all.push(shorter);
    }
    all
}
