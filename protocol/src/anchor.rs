//! What a log says to EVM chains: EIP-712 statements, and its contract's
//! address (PROTOCOL.md, "Anchors").
//!
//! Out of scope: signing, talking to a chain.

use alloc::vec::Vec;

use sha3::{Digest as _, Keccak256};

use crate::consent::recover;
use crate::hash::{self, Hash};
use crate::index::{Time, TreeSize};
use crate::key::{Origin, VerifierKey};
use crate::name::Address;

/// The contract that creates others at addresses that follow from their code
/// (Arachnid's deterministic deployment proxy), at one address on every chain.
pub const DEPLOYER: Address = Address::from_bytes([
    0x4e, 0x59, 0xb4, 0x48, 0x47, 0xb3, 0x79, 0x57, 0x85, 0x88, 0x92, 0x0c, 0xa7, 0x8f, 0xbf, 0x26,
    0xc0, 0xb4, 0x95, 0x6c,
]);

/// The salt that the deployer is given: what tells contracts apart is in their init code.
pub const CREATE2_SALT: [u8; 32] = [0; 32];

/// The creation code of `TallystickAnchor`, without the constructor's arguments.
pub const CREATION_CODE: [u8; CREATION_HEX.len() / 2] = creation_code();

const CREATION_HEX: &[u8] = include_bytes!("../../anchor/contract/creation.hex").trim_ascii();

/// Where a log is anchored (entry kind `anchor`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The EIP-155 chain id, 1 to 2^53 - 1.
    pub chain_id: u64,
    /// The log's contract ([`ChainLog::contract`]).
    pub contract: Address,
}

/// A log as contracts on EVM chains know it: what entry 0 says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainLog {
    origin: Origin,
    log_key: [u8; 32],
    evm_key: Address,
}

impl ChainLog {
    /// The log of `key`, whose entry 0 names `evm_key`.
    pub fn new(key: &VerifierKey, evm_key: Address) -> Self {
        Self {
            origin: key.origin().clone(),
            log_key: *key.as_bytes(),
            evm_key,
        }
    }

    /// The log's name.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The log's Ed25519 public key.
    pub fn log_key(&self) -> &[u8; 32] {
        &self.log_key
    }

    /// The address of the log's secp256k1 key.
    pub fn evm_key(&self) -> Address {
        self.evm_key
    }

    /// The log's identity, which is the salt of its EIP-712 domain: no chain
    /// and no contract stands in that domain, so what is signed holds everywhere.
    pub fn identity(&self) -> Hash {
        let parts: [&[u8]; 2] = [self.origin.as_str().as_bytes(), &self.log_key];
        hash::commit("tallystick/log/v1", &parts)
    }

    /// The EIP-712 domain separator.
    pub fn domain_separator(&self) -> [u8; 32] {
        keccak(&[
            &keccak(&[b"EIP712Domain(string name,string version,bytes32 salt)"]),
            &keccak(&[b"Tallystick"]),
            &keccak(&[b"1"]),
            self.identity().as_bytes(),
        ])
    }

    /// The digest that the EVM key signs to say that the first `size` entries
    /// have `root`, `time` being that of the last of them.
    pub fn checkpoint_digest(&self, size: TreeSize, root: Hash, time: Time) -> [u8; 32] {
        self.digest(&[
            &keccak(&[b"Checkpoint(uint64 size,bytes32 root,uint64 time)"]),
            &word(&size.get().to_be_bytes()),
            root.as_bytes(),
            &word(&time.secs().to_be_bytes()),
        ])
    }

    /// Whether the EVM key signed that the first `size` entries have `root`,
    /// `time` being that of the last of them (PROTOCOL.md section 13.1).
    pub fn signed(&self, size: TreeSize, root: Hash, time: Time, signature: &[u8; 65]) -> bool {
        let signer = recover(self.checkpoint_digest(size, root, time), signature);
        signer.is_ok_and(|signer| signer == self.evm_key)
    }

    /// The digest that the EVM key signs to end the log and name its successor, if it has one.
    pub fn retirement_digest(&self, successor: Option<&Self>) -> [u8; 32] {
        let name = successor.map_or("", |log| log.origin.as_str());
        self.digest(&[
            &keccak(&[b"Retirement(string origin,bytes32 logKey,address evmKey)"]),
            &keccak(&[name.as_bytes()]),
            &successor.map_or([0; 32], |log| log.log_key),
            &word(&successor.map_or([0; 20], |log| *log.evm_key.as_bytes())),
        ])
    }

    /// What creates the log's contract: the creation code, then the ABI-encoded
    /// arguments (string origin, bytes32 logKey, address evmKey).
    pub fn init_code(&self) -> Vec<u8> {
        let name = self.origin.as_str().as_bytes();
        // Where the string stands: after the three words of the head.
        let mut arguments = word(&[96]).to_vec();
        arguments.extend(self.log_key);
        arguments.extend(word(self.evm_key.as_bytes()));
        arguments.extend(word(&(name.len() as u64).to_be_bytes()));
        arguments.extend(name);
        arguments.resize(arguments.len().next_multiple_of(32), 0);
        [&CREATION_CODE[..], &arguments].concat()
    }

    /// The address of the log's contract, the same on every chain (EIP-1014).
    pub fn contract(&self) -> Address {
        let hash = keccak(&[
            &[0xff],
            DEPLOYER.as_bytes(),
            &CREATE2_SALT,
            &keccak(&[&self.init_code()]),
        ]);
        let mut address = [0; 20];
        address.copy_from_slice(&hash[12..]);
        Address::from_bytes(address)
    }

    fn digest(&self, words: &[&[u8]]) -> [u8; 32] {
        keccak(&[b"\x19\x01", &self.domain_separator(), &keccak(words)])
    }
}

/// The bytes on the right of 32, as the ABI places integers and addresses.
fn word(bytes: &[u8]) -> [u8; 32] {
    let mut word = [0; 32];
    word[32 - bytes.len()..].copy_from_slice(bytes);
    word
}

fn keccak(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Keccak256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

const fn creation_code() -> [u8; CREATION_HEX.len() / 2] {
    let mut code = [0; CREATION_HEX.len() / 2];
    let mut i = 0;
    while i < code.len() {
        code[i] = nibble(CREATION_HEX[2 * i]) << 4 | nibble(CREATION_HEX[2 * i + 1]);
        i += 1;
    }
    code
}

/// Evaluated by the compiler, over a file of the tree.
const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => panic!("creation.hex holds lower-case hex digits"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_padded_to_whole_words() {
        for length in [3, 31, 32, 33, 64, 100] {
            let name = ["a.", &"b".repeat(length - 2)].concat();
            let label = ["a.b/", &"b".repeat(length.saturating_sub(4))].concat();
            let name = if length > 60 { label } else { name };
            let origin = Origin::parse(&name).expect("valid");
            let signer = crate::key::Signer::new(origin, &[1; 32]);
            let log = ChainLog::new(signer.verifier(), Address::from_bytes([7; 20]));
            let arguments = log.init_code().split_off(CREATION_CODE.len());
            let words = 4 + length.div_ceil(32);
            assert_eq!(arguments.len(), 32 * words, "an origin of {length}");
            assert!(arguments[128..].starts_with(name.as_bytes()));
        }
    }
}
