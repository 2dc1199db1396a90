//! A chain's node, by plain JSON-RPC over HTTP.
//!
//! Answers are bounded and read strictly. A node's address is never shown
//! whole: providers put keys into it. Out of scope: what is asked, and what
//! follows from an answer.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, Uri};
use protocol::hash::Hash;
use protocol::name::Address;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::connect::{self, Client, Unheard, post};

/// How long a question may take, from connecting to the answer's last byte.
const WITHIN: Duration = Duration::from_secs(10);

/// How long connecting may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The longest answer, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// The longest that is passed on of what a node says of an error.
const MAX_MESSAGE: usize = 200;

/// Codes of errors that say that too much was asked (EIP-1474, and one that
/// repeats HTTP's).
const TOO_MUCH: [i64; 2] = [-32_005, 429];

/// A node's address, as `--rpc-url` takes it.
#[derive(Clone, PartialEq, Eq)]
pub struct RpcUrl(Uri);

/// The node of one chain.
#[derive(Debug)]
pub(super) struct Node {
    client: Client,
    url: RpcUrl,
    chain_id: OnceLock<u64>,
}

/// A block, as far as it is of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) number: u64,
    pub(super) hash: Hash,
}

/// What a contract said to the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) topics: Vec<[u8; 32]>,
    pub(super) data: Vec<u8>,
    pub(super) block: Block,
    pub(super) transaction: Hash,
}

/// Why a node gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RpcError {
    #[error("the node gave no answer to {method}: {cause}")]
    Away { method: &'static str, cause: String },
    #[error("the node answers {0} no more: too much was asked")]
    TooMuch(&'static str),
    #[error("the node's answer to {0} is over {MAX_ANSWER} bytes long")]
    TooLong(&'static str),
    #[error("the node's answer to {method} is not what it must be: {cause}")]
    Form { method: &'static str, cause: String },
    #[error("the node refused {method}: {code}, {message}")]
    Refused {
        method: &'static str,
        code: i64,
        message: String,
    },
    #[error("the node is of chain {found} now, and was of chain {kept}")]
    Chain { kept: u64, found: u64 },
}

/// A client for nodes, on the system's certificate authorities.
pub(super) fn client() -> io::Result<Client> {
    connect::client(CONNECT_WITHIN)
}

impl FromStr for RpcUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "a node's address is an https:// or http:// one without user and password";
        let uri: Uri = text.parse().map_err(|_| wrong)?;
        let authority = uri.authority().ok_or(wrong)?;
        let fits =
            matches!(uri.scheme_str(), Some("http" | "https")) && !authority.as_str().contains('@');
        fits.then_some(Self(uri)).ok_or(wrong)
    }
}

/// Host and port.
impl fmt::Display for RpcUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.0.authority();
        f.write_str(authority.map_or("", |authority| authority.as_str()))
    }
}

impl fmt::Debug for RpcUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RpcUrl({self})")
    }
}

impl Node {
    pub(super) fn new(client: Client, url: RpcUrl) -> Self {
        Self {
            client,
            url,
            chain_id: OnceLock::new(),
        }
    }

    /// The node's name, without what could be a secret.
    pub(super) fn host(&self) -> String {
        self.url.to_string()
    }

    /// The chain that the node said it is of when it was asked first.
    pub(super) fn known_chain(&self) -> Option<u64> {
        self.chain_id.get().copied()
    }

    /// The chain's id, which must be what it was.
    pub(super) async fn chain_id(&self) -> Result<u64, RpcError> {
        let method = "eth_chainId";
        let answer = self.ask(method, json!([])).await?;
        let found = quantity(&answer).filter(|id| (1..1 << 53).contains(id));
        let found = found.ok_or_else(|| form(method, "no chain id below 2^53"))?;
        let kept = *self.chain_id.get_or_init(|| found);
        if kept != found {
            return Err(RpcError::Chain { kept, found });
        }
        Ok(found)
    }

    /// A block by its number or by a word for it; `None` where the node knows none.
    pub(super) async fn block(&self, tag: &str) -> Result<Option<Block>, RpcError> {
        let method = "eth_getBlockByNumber";
        let answer = self.ask(method, json!([tag, false])).await?;
        if answer.is_null() {
            return Ok(None);
        }
        block_in(&answer, "number", "hash")
            .map(Some)
            .ok_or_else(|| form(method, "no number or no hash"))
    }

    /// A contract's code; empty where there is none.
    pub(super) async fn code(&self, at: Address) -> Result<Vec<u8>, RpcError> {
        let method = "eth_getCode";
        let answer = self.ask(method, json!([at.to_string(), "latest"])).await?;
        bytes(&answer).ok_or_else(|| form(method, "no bytes"))
    }

    /// What a call answers at a block; without `to`, the code that `data` creates.
    pub(super) async fn call(
        &self,
        to: Option<Address>,
        data: &[u8],
        block: Value,
    ) -> Result<Vec<u8>, RpcError> {
        let method = "eth_call";
        let mut call = json!({ "data": alloy_primitives::hex::encode_prefixed(data) });
        if let Some(to) = to {
            call["to"] = to.to_string().into();
        }
        let answer = self.ask(method, json!([call, block])).await?;
        bytes(&answer).ok_or_else(|| form(method, "no bytes"))
    }

    /// In which block a transaction succeeded, if it did.
    pub(super) async fn succeeded(&self, transaction: Hash) -> Result<Option<Block>, RpcError> {
        let method = "eth_getTransactionReceipt";
        let receipt = self
            .ask(method, json!([format!("0x{transaction}")]))
            .await?;
        if receipt.is_null() || receipt.get("status").and_then(quantity) == Some(0) {
            return Ok(None);
        }
        block_in(&receipt, "blockNumber", "blockHash")
            .map(Some)
            .ok_or_else(|| form(method, "no blockNumber or no blockHash"))
    }

    /// What `contract` said under `topic` in the blocks `from` to `to`.
    pub(super) async fn events(
        &self,
        contract: Address,
        topic: &[u8; 32],
        (from, to): (u64, u64),
    ) -> Result<Vec<Event>, RpcError> {
        let method = "eth_getLogs";
        let filter = json!({
            "address": contract.to_string(),
            "topics": [alloy_primitives::hex::encode_prefixed(topic)],
            "fromBlock": format!("0x{from:x}"),
            "toBlock": format!("0x{to:x}"),
        });
        let answer = self.ask(method, json!([filter])).await?;
        let list = answer.as_array().ok_or_else(|| form(method, "no list"))?;
        let asked_for = |event: &Event| {
            event.topics.first() == Some(topic) && (from..=to).contains(&event.block.number)
        };
        let events = list.iter().map(|value| {
            let event = event(value, contract).filter(asked_for);
            event.ok_or_else(|| form(method, "an event that was not asked for"))
        });
        events.collect()
    }

    async fn ask(&self, method: &'static str, params: Value) -> Result<Value, RpcError> {
        let question = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let answered = timeout(WITHIN, self.post(method, question.to_string())).await;
        let late = |_| RpcError::Away {
            method,
            cause: format!("not within {} s", WITHIN.as_secs()),
        };
        let (status, body) = answered.map_err(late)??;
        read(method, status, &body)
    }

    async fn post(
        &self,
        method: &'static str,
        question: String,
    ) -> Result<(StatusCode, Bytes), RpcError> {
        let kind = "application/json";
        let answer = post(
            &self.client,
            self.url.0.clone(),
            (kind, question),
            MAX_ANSWER,
        )
        .await;
        let (head, body) = answer.map_err(|unheard| match unheard {
            Unheard::TooLong => RpcError::TooLong(method),
            Unheard::Away(error) => RpcError::Away {
                method,
                cause: cause(&*error),
            },
        })?;
        Ok((head.status, body))
    }
}

fn form(method: &'static str, cause: &str) -> RpcError {
    let cause = cause.to_owned();
    RpcError::Form { method, cause }
}

/// The innermost cause of an error says what happened; the outer ones can
/// name the address.
fn cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// What an answer holds: the result, or why there is none.
fn read(method: &'static str, status: StatusCode, body: &[u8]) -> Result<Value, RpcError> {
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Err(RpcError::TooMuch(method));
    }
    let wrong = || form(method, &format!("status {status}, {} bytes", body.len()));
    let mut answer: Value = serde_json::from_slice(body).map_err(|_| wrong())?;
    if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
        let code = error["code"].as_i64().unwrap_or_default();
        if TOO_MUCH.contains(&code) {
            return Err(RpcError::TooMuch(method));
        }
        let message = error["message"].as_str().unwrap_or_default();
        let printable = message.chars().filter(|c| !c.is_control());
        return Err(RpcError::Refused {
            method,
            code,
            message: printable.take(MAX_MESSAGE).collect(),
        });
    }
    if !status.is_success() || answer["id"] != 1 {
        return Err(wrong());
    }
    answer.get_mut("result").map(Value::take).ok_or_else(wrong)
}

fn event(value: &Value, contract: Address) -> Option<Event> {
    let text = |name: &str| value.get(name)?.as_str();
    let of_contract = Address::from_any_case(text("address")?)? == contract;
    let removed = value.get("removed").is_some_and(|removed| removed != false);
    if !of_contract || removed {
        return None;
    }
    let topics = value.get("topics")?.as_array()?;
    let topics = topics.iter().map(|topic| bytes(topic)?.try_into().ok());
    Some(Event {
        topics: topics.collect::<Option<_>>()?,
        data: bytes(value.get("data")?)?,
        block: block_in(value, "blockNumber", "blockHash")?,
        transaction: hash(value.get("transactionHash")?)?,
    })
}

/// The block that two members name, its number within what entries can name.
fn block_in(value: &Value, number: &str, of: &str) -> Option<Block> {
    Some(Block {
        number: quantity(value.get(number)?).filter(|number| *number < 1 << 53)?,
        hash: hash(value.get(of)?)?,
    })
}

/// A number as nodes write it: 0x and 1 to 16 hex digits.
fn quantity(value: &Value) -> Option<u64> {
    let digits = value.as_str()?.strip_prefix("0x")?;
    let fits = (1..=16).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    fits.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    let text = value.as_str().filter(|text| text.starts_with("0x"))?;
    alloy_primitives::hex::decode(text).ok()
}

fn hash(value: &Value) -> Option<Hash> {
    let bytes = bytes(value)?;
    Some(Hash::from_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_are_taken_for_answers() {
        let ok = StatusCode::OK;
        for (status, body, expected) in [
            (ok, r#"{"jsonrpc":"2.0","id":1,"result":"0x1"}"#, "\"0x1\""),
            (ok, r#"{"id":1,"result":null}"#, "null"),
            (ok, r#"{"id":1,"error":null,"result":[]}"#, "[]"),
            (ok, r#"{"id":2,"result":"0x1"}"#, "not what it must be"),
            (ok, r#"{"id":1}"#, "not what it must be"),
            (ok, r#"[{"id":1,"result":"0x1"}]"#, "not what it must be"),
            (ok, "<html>", "not what it must be: status 200 OK, 6 bytes"),
            (StatusCode::BAD_GATEWAY, r#"{"id":1,"result":"0x1"}"#, "502"),
            (StatusCode::TOO_MANY_REQUESTS, "", "too much was asked"),
            (
                ok,
                r#"{"id":1,"error":{"code":-32005,"message":"x"}}"#,
                "too much",
            ),
            (
                ok,
                r#"{"id":1,"error":{"code":3,"message":"re\nverted"}}"#,
                "3, reverted",
            ),
            (ok, r#"{"id":1,"error":"no"}"#, "refused m: 0"),
        ] {
            let said = match read("m", status, body.as_bytes()) {
                Ok(value) => value.to_string(),
                Err(error) => error.to_string(),
            };
            assert!(said.contains(expected), "{body}: {said}");
        }
    }

    #[test]
    fn numbers_and_events_are_read_strictly() {
        for (text, number) in [
            ("0x0", Some(0)),
            ("0xffffffffffffffff", Some(u64::MAX)),
            ("0x10000000000000000", None),
            ("0x", None),
            ("0x+1", None),
            ("1", None),
        ] {
            assert_eq!(quantity(&text.into()), number, "{text}");
        }
        let contract = Address::from_bytes([7; 20]);
        let word = format!("0x{}", "ab".repeat(32));
        let good = json!({
            "address": contract.to_string(), "topics": [word], "data": "0x01", "removed": false,
            "blockNumber": "0x5", "blockHash": word, "transactionHash": word,
        });
        let read = event(&good, contract).expect("as nodes send them");
        assert_eq!((read.block.number, read.data), (5, vec![1]));
        for (name, value) in [
            ("address", json!(Address::from_bytes([8; 20]).to_string())),
            ("topics", json!(["0x01"])),
            ("topics", json!([1])),
            ("data", json!("0x1")),
            ("data", json!("01")),
            ("blockNumber", Value::Null),
            ("blockHash", json!("0x01")),
            ("transactionHash", Value::Null),
            ("removed", json!(true)),
        ] {
            let mut bad = good.clone();
            bad[name] = value.clone();
            assert_eq!(event(&bad, contract), None, "{name}: {value}");
        }
    }

    #[test]
    fn addresses_of_nodes_are_shown_without_their_keys() {
        let url: RpcUrl = "https://a.b:8545/v3/secret".parse().expect("an address");
        assert_eq!(format!("{url} {url:?}"), "a.b:8545 RpcUrl(a.b:8545)");
        for bad in ["", "a.b", "ws://a.b", "https://u:p@a.b", "/x", "https://"] {
            assert!(bad.parse::<RpcUrl>().is_err(), "{bad}");
        }
    }
}
