//! What a log's contract answers (PROTOCOL.md section 13.4), in the contract ABI.

use alloy_primitives::keccak256;
use protocol::anchor::ChainLog;
use protocol::hash::Hash;
use protocol::index::{Time, TreeSize};
use protocol::name::Address;
use serde_json::json;

use super::rpc::{Block, Event, Node, RpcError};

/// A word of the ABI.
type Word = [u8; 32];

/// A log's contract, as one node sees it.
#[derive(Debug)]
pub(super) struct Contract<'a> {
    node: &'a Node,
    log: &'a ChainLog,
    address: Address,
}

/// What stands in the contract as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) count: u64,
    pub(super) forked: bool,
    pub(super) retired: bool,
}

/// What an anchor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) size: TreeSize,
    pub(super) root: Hash,
    pub(super) time: Time,
}

/// An anchor, as the event tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Posted {
    pub(super) index: u64,
    pub(super) said: Said,
    pub(super) block: Block,
    pub(super) transaction: Hash,
}

/// Why a contract can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ContractError {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error("what stands at {0} is not this log's contract: its {1} is another")]
    Foreign(Address, &'static str),
    #[error("the answer to {0} is none that the contract at {1} gives")]
    Answer(&'static str, Address),
}

impl<'a> Contract<'a> {
    pub(super) fn of(log: &'a ChainLog, node: &'a Node) -> Self {
        let address = log.contract();
        Self { node, log, address }
    }

    /// Whether it is there, with the code that its creation leaves behind and
    /// this log's name and keys in it.
    pub(super) async fn is_there(&self) -> Result<bool, ContractError> {
        let code = self.node.code(self.address).await?;
        if code.is_empty() {
            return Ok(false);
        }
        // A creation answers the code that it would leave, keys included.
        let creation = self.log.init_code();
        let ours = self.node.call(None, &creation, json!("latest")).await?;
        let foreign = |what| ContractError::Foreign(self.address, what);
        if code != ours {
            return Err(foreign("code"));
        }
        // The name is no part of the code.
        let (name, log_key, evm_key) = ("origin()", "logKey()", "evmKey()");
        if self.ask(name, None).await? != string(self.log.origin().as_str()) {
            return Err(foreign("origin"));
        }
        if self.ask(log_key, None).await? != *self.log.log_key() {
            return Err(foreign("log key"));
        }
        if self.ask(evm_key, None).await? != word(self.log.evm_key().as_bytes()) {
            return Err(foreign("EVM key"));
        }
        Ok(true)
    }

    pub(super) async fn summary(&self) -> Result<Summary, ContractError> {
        Ok(Summary {
            count: self.number("count()").await?,
            forked: self.number("forked()").await? != 0,
            retired: self.number("retired()").await? != 0,
        })
    }

    /// The anchor of a number, from storage.
    pub(super) async fn anchor_at(&self, index: u64) -> Result<Said, ContractError> {
        let name = "anchorAt(uint256)";
        let answer = self.ask(name, Some(index)).await?;
        let said = match answer.as_chunks::<32>() {
            ([size, root, time, _block_time], []) => said(size, root, time),
            _ => None,
        };
        said.ok_or(ContractError::Answer(name, self.address))
    }

    /// The anchors that were posted in the blocks `from` to `to`.
    pub(super) async fn posted(&self, blocks: (u64, u64)) -> Result<Vec<Posted>, ContractError> {
        let name = "Anchored(uint256,uint64,bytes32,uint64)";
        let topic = keccak256(name);
        let events = self.node.events(self.address, &topic, blocks).await?;
        let posted = events.iter().map(posted).collect::<Option<_>>();
        posted.ok_or(ContractError::Answer(name, self.address))
    }

    async fn number(&self, name: &'static str) -> Result<u64, ContractError> {
        let answer = self.ask(name, None).await?;
        let word = answer.try_into().ok();
        let number = word.and_then(|word| number(&word));
        number.ok_or(ContractError::Answer(name, self.address))
    }

    async fn ask(&self, name: &'static str, index: Option<u64>) -> Result<Vec<u8>, ContractError> {
        let mut data = keccak256(name)[..4].to_vec();
        data.extend(index.iter().flat_map(|index| word(&index.to_be_bytes())));
        let answer = self.node.call(Some(self.address), &data, json!("latest"));
        Ok(answer.await?)
    }
}

fn posted(event: &Event) -> Option<Posted> {
    let ([_, size, root], ([index, time], [])) = (&event.topics[..], event.data.as_chunks::<32>())
    else {
        return None;
    };
    Some(Posted {
        index: number(index)?,
        said: said(size, root, time)?,
        block: event.block,
        transaction: event.transaction,
    })
}

fn said(size: &Word, root: &Word, time: &Word) -> Option<Said> {
    Some(Said {
        size: number(size).and_then(TreeSize::new)?,
        root: Hash::from_bytes(*root),
        time: number(time).and_then(Time::from_secs)?,
    })
}

fn number(word: &Word) -> Option<u64> {
    let (zeros, digits) = word.split_last_chunk::<8>()?;
    let fits = zeros.iter().all(|byte| *byte == 0);
    let number = u64::from_be_bytes(*digits);
    // As large as a log's numbers may be.
    (fits && number < 1 << 53).then_some(number)
}

/// Bytes on the right of a word, as the ABI places integers and addresses.
fn word(bytes: &[u8]) -> Word {
    let mut word = [0; 32];
    word[32 - bytes.len()..].copy_from_slice(bytes);
    word
}

/// A string alone: where it begins, its length, then itself in whole words.
fn string(text: &str) -> Vec<u8> {
    let mut bytes = word(&[32]).to_vec();
    bytes.extend(word(&(text.len() as u64).to_be_bytes()));
    bytes.extend(text.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes
}
