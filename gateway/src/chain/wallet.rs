//! Contract wallets: whether one accepts a signature (EIP-1271), as its chain
//! says at a block that is final.
//!
//! The block is named in the entry, so that anybody can ask again. Out of
//! scope: what the signature brings about (see [`crate::api`]).

use std::sync::Arc;

use protocol::consent::Message;
use protocol::hash::Hash;
use protocol::name::Address;
use serde_json::json;
use tokio::sync::Semaphore;

use super::rpc::{Block, Node, RpcError};

/// `isValidSignature(bytes32,bytes)`, and what it answers of a valid one.
const MAGIC: [u8; 4] = [0x16, 0x26, 0xba, 0x7e];

/// The code of an error that is the contract's own refusal (geth's extension
/// of EIP-1474, which others follow).
const REVERTED: i64 = 3;

/// Wallets that are asked about at once.
const AT_ONCE: usize = 8;

/// Asks chains about contract wallets. Clones share it.
#[derive(Clone, Debug)]
pub struct Wallets {
    nodes: Arc<[Node]>,
    places: Arc<Semaphore>,
}

/// Why a contract wallet's signature is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// No node of the chain.
    #[error(
        "this gateway asks no node of chain {0}, so it can't verify contract wallets there \
         (its operator can: --rpc-url)"
    )]
    Unasked(u64),
    /// So many are being asked about.
    #[error("too many contract wallets are being asked about; try again in a second")]
    Busy,
    /// The node can't say.
    #[error("the node of chain {0} gives no answer at the moment; try again in a minute")]
    Away(u64),
    /// The contract says no.
    #[error(
        "{wallet} does not accept the signature at block {block} of chain {chain_id}, the newest \
         final one: {why}"
    )]
    Signature {
        /// The wallet.
        wallet: Address,
        /// Its chain.
        chain_id: u64,
        /// At which block it was asked.
        block: u64,
        /// What it said.
        why: &'static str,
    },
}

impl Wallets {
    /// With no node to ask.
    pub(super) fn none() -> Self {
        Self::new(Arc::new([]))
    }

    pub(super) fn new(nodes: Arc<[Node]>) -> Self {
        Self {
            nodes,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Asks the message's chain whether the signer's contract accepts
    /// `signature`: the number and hash of the block at which it does.
    ///
    /// # Errors
    /// It does not, or nobody can say.
    pub async fn verify(
        &self,
        message: &Message<'_>,
        signature: &[u8],
    ) -> Result<(u64, Hash), Refused> {
        let chain_id = message.terms.chain_id;
        let _place = self.places.try_acquire().map_err(|_| Refused::Busy)?;
        let node = self.node(chain_id).await?;
        let away = |error: &RpcError| {
            let error: &(dyn std::error::Error + 'static) = error;
            tracing::warn!(node = node.host(), error, "a contract wallet's chain");
            Refused::Away(chain_id)
        };
        // Not every node has the state of a block as old as the final one.
        let mut last = Refused::Away(chain_id);
        for tag in ["finalized", "safe"] {
            let block = match node.block(tag).await {
                Ok(Some(block)) => block,
                Ok(None) => continue,
                Err(error) => {
                    last = away(&error);
                    continue;
                }
            };
            match ask(node, message, signature, block).await {
                Ok(Ok(())) => return Ok((block.number, block.hash)),
                Ok(Err(why)) => {
                    return Err(Refused::Signature {
                        wallet: message.wallet,
                        chain_id,
                        block: block.number,
                        why,
                    });
                }
                Err(error) => last = away(&error),
            }
        }
        Err(last)
    }

    /// A node that is of the chain now.
    async fn node(&self, chain_id: u64) -> Result<&Node, Refused> {
        let mut refused = Refused::Unasked(chain_id);
        for node in self.nodes.iter() {
            if node.known_chain().is_some_and(|known| known != chain_id) {
                continue;
            }
            match node.chain_id().await {
                Ok(found) if found == chain_id => return Ok(node),
                Ok(_) => {}
                Err(_) => refused = Refused::Away(chain_id),
            }
        }
        Err(refused)
    }
}

/// What the contract says; inside, why it does not accept.
async fn ask(
    node: &Node,
    message: &Message<'_>,
    signature: &[u8],
    block: Block,
) -> Result<Result<(), &'static str>, RpcError> {
    let data = call_data(message.digest(), signature);
    let at = json!({ "blockHash": format!("0x{}", block.hash) });
    match node.call(Some(message.wallet), &data, at).await {
        Ok(answer) if answer.is_empty() => Ok(Err(
            "no contract that answers is there; a new one is taken once its block is final",
        )),
        Ok(answer) if accepts(&answer) => Ok(Ok(())),
        Ok(_) => Ok(Err("it answers that the signature is not valid")),
        Err(RpcError::Refused { code, message, .. })
            if code == REVERTED || message.contains("revert") =>
        {
            Ok(Err("it reverts"))
        }
        Err(error) => Err(error),
    }
}

/// Whether an answer is one word that begins with the magic value and ends in zeros.
fn accepts(answer: &[u8]) -> bool {
    let rest = answer.strip_prefix(&MAGIC);
    rest.is_some_and(|rest| rest.len() == 28 && rest.iter().all(|byte| *byte == 0))
}

/// The call in the contract ABI: the hash, where the bytes are, their number
/// and themselves, padded to whole words.
fn call_data(digest: [u8; 32], signature: &[u8]) -> Vec<u8> {
    let number = |number: usize| {
        let mut word = [0; 32];
        word[24..].copy_from_slice(&(number as u64).to_be_bytes());
        word
    };
    let mut data = [&MAGIC[..], &digest, &number(64), &number(signature.len())].concat();
    data.extend_from_slice(signature);
    let padding = signature.len().next_multiple_of(32) - signature.len();
    data.extend(std::iter::repeat_n(0, padding));
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_magic_word_accepts() {
        let word = |start: &[u8]| {
            let mut word = start.to_vec();
            word.resize(32, 0);
            word
        };
        for (answer, accepted) in [
            (word(&MAGIC), true),
            (word(&[0x16, 0x26, 0xba, 0x7f]), false),
            (word(&[0x16, 0x26, 0xba, 0x7e, 0, 0, 1]), false),
            (MAGIC.to_vec(), false),
            ([word(&MAGIC), vec![0]].concat(), false),
            (vec![], false),
        ] {
            assert_eq!(accepts(&answer), accepted, "{answer:?}");
        }
    }

    #[test]
    fn calls_are_in_whole_words() {
        for (length, words) in [(0, 0), (1, 1), (32, 1), (33, 2), (65, 3)] {
            let data = call_data([7; 32], &vec![0xab; length]);
            assert_eq!(data.len(), 4 + 32 * (3 + words), "{length}");
            assert_eq!(data[4..36], [7; 32]);
            assert_eq!((data[67], data[99]), (64, length as u8));
            assert!(data[100..100 + length].iter().all(|byte| *byte == 0xab));
            assert!(data[100 + length..].iter().all(|byte| *byte == 0));
        }
    }
}
