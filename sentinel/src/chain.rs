//! What a chain says of contract wallets' signatures (EIP-1271), through any
//! JSON-RPC endpoint of an Ethereum node.
//!
//! The endpoint is believed: whoever runs the sentinel chose it. Out of scope:
//! what comes of its word (see [`crate::pass`]).

use std::fmt::Write as _;
use std::time::Duration;

use protocol::consent::{Message, Signature};
use protocol::entry::{Body, Entry};
use protocol::hash::Hash;
use protocol::key::Origin;
use reqwest::Url;
use serde_json::{Value, json};

/// `isValidSignature(bytes32,bytes)`, and what it answers of a valid one.
const MAGIC: &str = "1626ba7e";

/// The code of an error that is the contract's own refusal (EIP-1474's
/// extension by geth, which others follow).
const REVERTED: i64 = 3;

/// Endpoints, each of one chain.
#[derive(Clone, Debug)]
pub struct Chains {
    http: reqwest::Client,
    endpoints: Vec<Url>,
}

/// What a chain says of a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// The contract accepted it at that block.
    Valid,
    /// It did not, or there is no such block.
    Invalid(String),
    /// No endpoint can say.
    Unknown(String),
}

/// Where and what a contract is asked.
#[derive(Clone, Copy, Debug)]
struct Asked<'a> {
    message: Message<'a>,
    /// The block's number and hash.
    block: (u64, Hash),
    /// What the contract is given.
    signature: &'a [u8],
}

impl Chains {
    /// Endpoints to ask; an answer may take as long as `timeout`.
    ///
    /// # Errors
    /// TLS or proxy settings are unusable.
    pub fn new(endpoints: Vec<Url>, timeout: Duration) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder().timeout(timeout).build()?;
        Ok(Self { http, endpoints })
    }

    /// Whether there is one to ask at all.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Asks about every contract's signature in a binding entry.
    pub async fn binding(&self, entry: &[u8], origin: &Origin) -> Word {
        let Ok(Entry::Known {
            body: Body::Binding(binding),
            ..
        }) = Entry::parse(entry)
        else {
            return Word::Unknown("it is no binding".into());
        };
        for (message, signature) in binding.messages(origin) {
            let Signature::Eip1271 {
                block,
                block_hash,
                bytes,
            } = signature
            else {
                continue;
            };
            let asked = Asked {
                message,
                block: (*block, *block_hash),
                signature: bytes,
            };
            match self.judge(&asked).await {
                Word::Valid => {}
                other => return other,
            }
        }
        Word::Valid
    }

    /// Asks the message's chain whether the contract accepts the signature.
    async fn judge(&self, asked: &Asked<'_>) -> Word {
        let wanted = asked.message.terms.chain_id;
        let mut why = format!("no --rpc-url is of chain {wanted}");
        for endpoint in &self.endpoints {
            match self.call(endpoint, "eth_chainId", json!([])).await {
                Ok(id) if number(&id) == Some(wanted) => {
                    return self
                        .ask(endpoint, asked)
                        .await
                        .unwrap_or_else(|error| Word::Unknown(error.to_string()));
                }
                Ok(_) => {}
                Err(error) => why = error.to_string(),
            }
        }
        Word::Unknown(why)
    }

    async fn ask(&self, endpoint: &Url, asked: &Asked<'_>) -> Result<Word, RpcError> {
        let (number, expected) = asked.block;
        let params = json!([format!("0x{number:x}"), false]);
        let block = self.call(endpoint, "eth_getBlockByNumber", params).await?;
        let Some(found) = block["hash"].as_str() else {
            return Ok(Word::Unknown(format!(
                "the node does not know block {number}"
            )));
        };
        if found != format!("0x{expected}") {
            return Ok(Word::Invalid(format!(
                "block {number} of chain {} has the hash {found}, the entry names {expected}",
                asked.message.terms.chain_id
            )));
        }
        let wallet = asked.message.wallet;
        let call = json!({ "to": wallet.to_string(), "data": call_data(asked) });
        let params = json!([call, { "blockHash": format!("0x{expected}") }]);
        match self.call(endpoint, "eth_call", params).await {
            Ok(Value::String(answer)) if accepts(&answer) => Ok(Word::Valid),
            Ok(answer) => Ok(Word::Invalid(format!(
                "{wallet} answers {answer} at block {number}, not 0x{MAGIC}"
            ))),
            Err(RpcError::Node { code, message }) if code == REVERTED => Ok(Word::Invalid(
                format!("{wallet} refuses it at block {number}: {message}"),
            )),
            Err(error) => Err(error),
        }
    }

    async fn call(&self, endpoint: &Url, method: &str, params: Value) -> Result<Value, RpcError> {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let sent = self.http.post(endpoint.clone()).json(&request).send().await;
        // Whoever's endpoint it is may have put a key into its address.
        let answer = sent.map_err(reqwest::Error::without_url)?;
        let mut answer: Value = answer.json().await.map_err(reqwest::Error::without_url)?;
        if let Some(error) = answer.get("error") {
            return Err(RpcError::Node {
                code: error["code"].as_i64().unwrap_or_default(),
                message: error["message"].as_str().unwrap_or_default().into(),
            });
        }
        Ok(answer["result"].take())
    }
}

/// Why a node gave no answer.
#[derive(Debug, thiserror::Error)]
enum RpcError {
    #[error("the node of --rpc-url gave no answer: {0}")]
    Http(#[from] reqwest::Error),
    #[error("the node of --rpc-url answers error {code}: {message}")]
    Node { code: i64, message: String },
}

fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

/// Whether a word of 32 bytes begins with the magic value and ends in zeros.
fn accepts(answer: &str) -> bool {
    let rest = answer
        .strip_prefix("0x")
        .and_then(|hex| hex.strip_prefix(MAGIC));
    rest.is_some_and(|rest| rest.len() == 56 && rest.bytes().all(|b| b == b'0'))
}

/// The call in the contract ABI: the hash, where the bytes are, their number
/// and themselves, padded to whole words.
fn call_data(asked: &Asked<'_>) -> String {
    let mut data = format!("0x{MAGIC}{}", Hash::from_bytes(asked.message.digest()));
    let _ = write!(data, "{:064x}{:064x}", 0x40, asked.signature.len());
    for byte in asked.signature {
        let _ = write!(data, "{byte:02x}");
    }
    for _ in asked.signature.len()..asked.signature.len().next_multiple_of(32) {
        data.push_str("00");
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::consent::{Role, Terms};
    use protocol::index::Time;
    use protocol::name::Address;

    #[test]
    fn only_the_magic_word_accepts() {
        let word = |start: &str| format!("0x{start:0<64}");
        for (answer, accepted) in [
            (word(MAGIC), true),
            (word("1626ba7f"), false),
            (word("1626ba7e00000001"), false),
            (format!("0x{MAGIC}"), false),
            (word(MAGIC) + "00", false),
            ("0x".into(), false),
            (String::new(), false),
        ] {
            assert_eq!(accepts(&answer), accepted, "{answer}");
        }
    }

    #[test]
    fn calls_are_in_whole_words() {
        let origin = Origin::parse("a.b").expect("valid");
        let time = |secs| Time::from_secs(secs).expect("small");
        let message = Message {
            origin: &origin,
            key_id: Hash::of(b"key"),
            previous: Hash::of(b"first"),
            wallet: Address::from_bytes([7; 20]),
            role: Role::Link,
            terms: Terms {
                chain_id: 1,
                issued_at: time(5),
                expires_at: time(6),
            },
        };
        let digest = Hash::from_bytes(message.digest()).to_string();
        for (signature, tail) in [
            (&[][..], String::new()),
            (&[0xab][..], format!("ab{}", "00".repeat(31))),
            (&[0xab; 32][..], "ab".repeat(32)),
        ] {
            let block = (7, Hash::of(b"block"));
            let asked = Asked {
                message,
                block,
                signature,
            };
            let len = signature.len();
            let expected = format!("0x1626ba7e{digest}{:064x}{len:064x}{tail}", 64);
            assert_eq!(call_data(&asked), expected);
        }
    }
}
