//! Chains by name, and a log's contract on one of them.

use std::str::FromStr;

use alloy_primitives::{Address, B256, Bytes};
use alloy_sol_types::SolInterface as _;
use protocol::anchor::{ChainLog, DEPLOYER};
use protocol::hash::Hash;
use protocol::index::TreeSize;
use protocol::network::{NETWORKS, Network as Known};

use crate::contract::TallystickAnchor::{
    TallystickAnchorErrors as Refusal, countCall, forkedCall, latestCall, retiredCall,
};
use crate::rpc::{Call, LATEST, Rpc, RpcError};

/// A chain, as its id tells it from others (EIP-155).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(u64);

impl Network {
    /// The id.
    pub fn id(self) -> u64 {
        self.0
    }

    /// Where an explorer shows something, such as `address/0x..` or `tx/0x..`,
    /// if one is known.
    pub fn explorer(self, path: &str) -> Option<String> {
        let explorer = Known::of(self.0)?.explorer?;
        Some(format!("{explorer}/{path}"))
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = NETWORKS.iter().find(|known| known.name == text);
        let id = known.map(|known| known.id).or_else(|| text.parse().ok());
        id.map(Self).ok_or_else(|| {
            let names: Vec<_> = NETWORKS.iter().map(|known| known.name).collect();
            let names = names.join(", ");
            format!("{text:?} is no chain, expected its id or one of {names}")
        })
    }
}

/// What stands in the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchored {
    /// Its number, from 0.
    pub index: u64,
    /// How many entries it covers.
    pub size: TreeSize,
    /// Their root.
    pub root: Hash,
    /// The time of its block.
    pub block_time: u64,
}

/// Why a contract can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ContractError {
    /// The node gave no answer.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// Another chain.
    #[error("the node is on chain {found}, expected {expected}; nothing was sent")]
    Chain {
        /// What was asked for.
        expected: u64,
        /// What the node says.
        found: u64,
    },
    /// Nothing there.
    #[error("there is no contract at {0}; run `anchor deploy` first")]
    Missing(Address),
    /// Something else there.
    #[error(
        "the contract at {0} is not this log's: its code is not what the log's creation code makes"
    )]
    Foreign(Address),
    /// No deployer.
    #[error(
        "this chain lacks the deterministic deployer at {0}, so the log can't have its contract there"
    )]
    NoDeployer(Address),
    /// An answer that the contract never gives.
    #[error("the contract's answer to {0} can't be read")]
    Answer(&'static str),
    /// It refused a call.
    #[error("the contract refuses: {0}")]
    Refused(String),
    /// Nothing is anchored there any more.
    #[error("the log is marked as {0} in its contract: nothing is anchored any more")]
    Ended(&'static str),
}

/// A log's contract.
#[derive(Debug)]
pub struct Contract<'a> {
    rpc: &'a Rpc,
    address: Address,
    init_code: Bytes,
    /// At which block it is read: a tag or a number.
    block: String,
}

impl<'a> Contract<'a> {
    /// That of `log`, at the address that follows from it.
    pub fn of(log: &ChainLog, rpc: &'a Rpc) -> Self {
        Self {
            rpc,
            address: Address::from(*log.contract().as_bytes()),
            init_code: log.init_code().into(),
            block: LATEST.into(),
        }
    }

    /// The same, read at the block of this number: a node that has not got it
    /// can't give an older answer.
    pub fn at(self, height: u64) -> Self {
        let block = format!("{height:#x}");
        Self { block, ..self }
    }

    /// Where it is.
    pub fn address(&self) -> Address {
        self.address
    }

    /// The creation code with its arguments.
    pub fn init_code(&self) -> &Bytes {
        &self.init_code
    }

    /// Whether it is there; refused where something else is.
    ///
    /// # Errors
    /// No answer, or other code than the creation code makes.
    pub async fn is_there(&self) -> Result<bool, ContractError> {
        let code = self.rpc.code(self.address, &self.block).await?;
        if code.is_empty() {
            return Ok(false);
        }
        let creation = Call {
            from: Address::ZERO,
            to: None,
            data: self.init_code.clone(),
        };
        // What a creation answers is the code that it leaves behind, keys included.
        let ours = self.rpc.call(&creation, &self.block).await?;
        if code != ours {
            return Err(ContractError::Foreign(self.address));
        }
        Ok(true)
    }

    /// Requires that it is there and takes anchors.
    ///
    /// # Errors
    /// [`ContractError`].
    pub async fn require(&self) -> Result<(), ContractError> {
        if !self.is_there().await? {
            return Err(ContractError::Missing(self.address));
        }
        if self.ask(&forkedCall {}, "forked").await? {
            return Err(ContractError::Ended("forked"));
        }
        if self.ask(&retiredCall {}, "retired").await? {
            return Err(ContractError::Ended("retired"));
        }
        Ok(())
    }

    /// The deployer, if this chain has it.
    ///
    /// # Errors
    /// No answer, or no deployer.
    pub async fn deployer(&self) -> Result<Address, ContractError> {
        let deployer = Address::from(*DEPLOYER.as_bytes());
        if self.rpc.code(deployer, &self.block).await?.is_empty() {
            return Err(ContractError::NoDeployer(deployer));
        }
        Ok(deployer)
    }

    /// The newest anchor, if there is one.
    ///
    /// # Errors
    /// [`ContractError`].
    pub async fn latest(&self) -> Result<Option<Anchored>, ContractError> {
        if self.ask(&countCall {}, "count").await?.is_zero() {
            return Ok(None);
        }
        let latest = self.ask(&latestCall {}, "latest").await?;
        let anchored = TreeSize::new(latest.size).map(|size| Anchored {
            index: latest.index.saturating_to(),
            size,
            root: Hash::from_bytes(latest.root.0),
            block_time: latest.blockTime,
        });
        anchored.map(Some).ok_or(ContractError::Answer("latest"))
    }

    async fn ask<C: alloy_sol_types::SolCall>(
        &self,
        call: &C,
        name: &'static str,
    ) -> Result<C::Return, ContractError> {
        let call = Call {
            from: Address::ZERO,
            to: Some(self.address),
            data: call.abi_encode().into(),
        };
        let answer = self.rpc.call(&call, &self.block).await;
        let answer = answer.map_err(refusal)?;
        C::abi_decode_returns_validate(&answer).map_err(|_| ContractError::Answer(name))
    }
}

/// What a contract said when it refused a call.
pub fn refusal(error: RpcError) -> ContractError {
    match &error {
        RpcError::Refused {
            data: Some(data), ..
        } => match Refusal::abi_decode(data) {
            Ok(refused) => ContractError::Refused(format!("{refused:?}")),
            Err(_) => ContractError::Rpc(error),
        },
        _ => ContractError::Rpc(error),
    }
}

/// A hash as the ABI has it.
pub fn word(hash: Hash) -> B256 {
    B256::from(*hash.as_bytes())
}
