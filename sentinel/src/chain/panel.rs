//! The nodes of one chain, which must agree: whoever alone runs a node can
//! say what it likes.
//!
//! Out of scope: what contracts are and say (see [`super::contract`]).

use std::fmt;

use protocol::hash::Hash;
use protocol::name::Address;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::abi;
use super::node::{Node, REVERTED, RpcError, plain};

/// Nodes of one chain.
#[derive(Clone, Debug)]
pub struct Panel {
    chain_id: u64,
    nodes: Vec<Node>,
}

/// Why a chain said nothing: never anything about a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// A node gave no answer.
    #[error("chain {chain_id}: {error}")]
    Node {
        /// Of which chain.
        chain_id: u64,
        /// Why.
        error: RpcError,
    },
    /// They say different things, or what cannot be.
    #[error("chain {chain_id}: {what}")]
    Contradiction {
        /// Of which chain.
        chain_id: u64,
        /// What was said.
        what: String,
    },
}

/// A block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: Hash,
    /// Its time, in seconds since 1970.
    pub time: u64,
}

/// What a contract answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Called {
    /// Bytes.
    Returned(Vec<u8>),
    /// A refusal of its own.
    Reverted,
}

/// A transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Whom it calls; `None` where it creates a contract.
    pub to: Option<Address>,
    /// With what.
    pub input: Vec<u8>,
}

/// A block as a parameter: its hash where one can be given, so that every
/// answer is of the same state (EIP-1898).
#[derive(Clone, Copy, Debug)]
pub enum At {
    /// The newest, which may not stay.
    Latest,
    /// One block.
    Block(Hash),
}

impl At {
    fn param(self) -> Value {
        match self {
            Self::Latest => "latest".into(),
            Self::Block(hash) => json!({ "blockHash": format!("0x{hash}") }),
        }
    }
}

impl Panel {
    /// Nodes that said that they are of this chain.
    pub fn new(chain_id: u64, nodes: Vec<Node>) -> Self {
        Self { chain_id, nodes }
    }

    /// The chain's id (EIP-155).
    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// What cannot be, though every node says so.
    pub fn contradiction(&self, what: impl Into<String>) -> Silence {
        Silence::Contradiction {
            chain_id: self.chain_id,
            what: what.into(),
        }
    }

    /// The newest block that every node calls final.
    ///
    /// # Errors
    /// [`Silence`].
    pub async fn finalized(&self) -> Result<Block, Silence> {
        let method = "eth_getBlockByNumber";
        let mut newest = vec![];
        for (node, answer) in self.each(method, json!(["finalized", false])).await {
            let answer = answer.map_err(|error| self.silent(error))?;
            let block = block(&answer);
            let block = block.ok_or_else(|| self.silent(node.form(method, "no final block")))?;
            newest.push(block.number);
        }
        // One that lags behind knows no more; whether that is enough, the caller says.
        self.block(newest.into_iter().min().unwrap_or_default())
            .await
    }

    /// A block by its number.
    ///
    /// # Errors
    /// [`Silence`], also where a node does not know it.
    pub async fn block(&self, number: u64) -> Result<Block, Silence> {
        let params = json!([format!("0x{number:x}"), false]);
        let read = |value: &Value| block(value).filter(|block| block.number == number);
        self.ask("eth_getBlockByNumber", params, read).await
    }

    /// The number of the first block of at least this time, up to `last`.
    ///
    /// # Errors
    /// [`Silence`].
    pub async fn first_block_at(&self, time: u64, last: u64) -> Result<u64, Silence> {
        let (mut low, mut high) = (0, last);
        while low < high {
            let middle = u64::midpoint(low, high);
            if self.block(middle).await?.time < time {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// A contract's code; empty where there is none.
    ///
    /// # Errors
    /// [`Silence`].
    pub async fn code(&self, address: Address, at: At) -> Result<Vec<u8>, Silence> {
        let params = json!([address.to_string(), at.param()]);
        self.ask("eth_getCode", params, hex).await
    }

    /// Calls a contract.
    ///
    /// # Errors
    /// [`Silence`].
    pub async fn call(&self, to: Address, data: &[u8], at: At) -> Result<Called, Silence> {
        let method = "eth_call";
        let call = json!({ "to": to.to_string(), "data": abi::hex(data) });
        let mut said = vec![];
        for (node, answer) in self.each(method, json!([call, at.param()])).await {
            let called = match answer {
                Ok(value) => hex(&value).map(Called::Returned),
                Err(RpcError::Refused { code: REVERTED, .. }) => Some(Called::Reverted),
                Err(error) => return Err(self.silent(error)),
            };
            let called = called.ok_or_else(|| self.silent(node.form(method, "no bytes")))?;
            said.push((node, called));
        }
        self.agreed(method, said)
    }

    /// A transaction; `None` where it is not known.
    ///
    /// # Errors
    /// [`Silence`].
    pub async fn transaction(&self, hash: Hash) -> Result<Option<Transaction>, Silence> {
        let read = |value: &Value| {
            if value.is_null() {
                return Some(None);
            }
            let to = match &value["to"] {
                Value::Null => None,
                to => Some(Address::from_any_case(to.as_str()?)?),
            };
            let input = hex(&value["input"])?;
            Some(Some(Transaction { to, input }))
        };
        let params = json!([format!("0x{hash}")]);
        self.ask("eth_getTransactionByHash", params, read).await
    }

    /// Asks every node for what `read` makes of its answer; they must agree.
    ///
    /// # Errors
    /// [`Silence`].
    pub async fn ask<T: PartialEq + fmt::Debug>(
        &self,
        method: &'static str,
        params: Value,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, Silence> {
        let mut said = vec![];
        for (node, answer) in self.each(method, params).await {
            let answer = answer.map_err(|error| self.silent(error))?;
            let value = read(&answer)
                .ok_or_else(|| self.silent(node.form(method, plain(&answer.to_string()))))?;
            said.push((node, value));
        }
        self.agreed(method, said)
    }

    fn agreed<T: PartialEq + fmt::Debug>(
        &self,
        method: &str,
        mut said: Vec<(&Node, T)>,
    ) -> Result<T, Silence> {
        if said.windows(2).all(|two| two[0].1 == two[1].1) {
            let (_, value) = said.pop().expect("a panel has a node");
            return Ok(value);
        }
        let words = said.iter().map(|(node, value)| {
            let value = plain(&format!("{value:?}"));
            format!("{} says {value}", node.name())
        });
        let words: Vec<_> = words.collect();
        let what = format!("the nodes disagree on {method}: {}", words.join("; "));
        Err(self.contradiction(what))
    }

    fn silent(&self, error: RpcError) -> Silence {
        Silence::Node {
            chain_id: self.chain_id,
            error,
        }
    }

    /// Every node's answer, in their order.
    pub(super) async fn each(
        &self,
        method: &'static str,
        params: Value,
    ) -> Vec<(&Node, Result<Value, RpcError>)> {
        let mut tasks = JoinSet::new();
        for (place, node) in self.nodes.iter().enumerate() {
            let (node, params) = (node.clone(), params.clone());
            tasks.spawn(async move { (place, node.ask(method, &params).await) });
        }
        let mut answers = tasks.join_all().await;
        answers.sort_by_key(|(place, _)| *place);
        let answers = answers.into_iter();
        answers
            .map(|(place, answer)| (&self.nodes[place], answer))
            .collect()
    }
}

/// Bytes in hex.
fn hex(value: &Value) -> Option<Vec<u8>> {
    abi::bytes(value.as_str()?)
}

fn block(value: &Value) -> Option<Block> {
    Some(Block {
        number: abi::quantity(&value["number"])?,
        hash: abi::hash(&value["hash"])?,
        time: abi::quantity(&value["timestamp"])?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::fake::{Fake, Reply};

    /// A node whose newest final block is `last`, and whose blocks came every
    /// two seconds, with hashes made of `seed`.
    async fn node(number: usize, last: u64, seed: u8) -> Node {
        let fake = Fake::start(move |method, params| {
            assert_eq!(method, "eth_getBlockByNumber");
            let asked = params[0].as_str().expect("a tag or number");
            let number = abi::quantity(&params[0]).unwrap_or(last);
            if number > last || !asked.starts_with("0x") && asked != "finalized" {
                return Reply::Result(Value::Null);
            }
            let hash = Hash::of(&[&[seed][..], &number.to_be_bytes()].concat());
            Reply::Result(json!({
                "number": format!("0x{number:x}"), "hash": format!("0x{hash}"),
                "timestamp": format!("0x{:x}", 1_000 + 2 * number),
            }))
        });
        fake.await.node(number)
    }

    #[tokio::test]
    async fn nodes_agree_on_the_newest_final_block_that_all_have() {
        for (name, nodes, expected) in [
            ("one", vec![(9, 1)], Ok(9)),
            ("two", vec![(9, 1), (9, 1)], Ok(9)),
            ("one lags", vec![(9, 1), (7, 1)], Ok(7)),
            (
                "another history",
                vec![(9, 1), (9, 2)],
                Err("the nodes disagree on eth_getBlockByNumber: node 0 (127.0.0.1:"),
            ),
        ] {
            let mut panel = Panel::new(5, vec![]);
            for (number, (last, seed)) in nodes.into_iter().enumerate() {
                panel.nodes.push(node(number, last, seed).await);
            }
            match (panel.finalized().await, expected) {
                (Ok(block), Ok(number)) => assert_eq!(block.number, number, "{name}"),
                (Err(why), Err(said)) => {
                    let why = why.to_string();
                    assert!(
                        why.contains(said) && why.starts_with("chain 5: "),
                        "{name}: {why}"
                    );
                    assert_eq!(why.matches(" says ").count(), 2, "{name}: {why}");
                }
                (found, _) => panic!("{name}: {found:?}"),
            }
        }
    }

    #[tokio::test]
    async fn blocks_are_found_by_their_time() {
        let panel = Panel::new(5, vec![node(1, 40, 1).await]);
        for (time, last, number) in [
            (0, 40, 0),
            (1_000, 40, 0),
            (1_001, 40, 1),
            (1_002, 40, 1),
            (1_080, 40, 40),
            (9_999, 40, 40),
            (1_050, 3, 3),
        ] {
            assert_eq!(panel.first_block_at(time, last).await, Ok(number), "{time}");
        }
        assert!(
            panel
                .block(41)
                .await
                .is_err_and(|why| why.to_string().contains("null"))
        );
    }
}
