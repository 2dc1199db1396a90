//! A chain through one node's JSON-RPC.
//!
//! Out of scope: what is asked and what follows from it. The node's address is
//! never shown whole: providers put keys into it.

use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U256};
use reqwest::header::RETRY_AFTER;
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// No answer that is asked for is longer.
const MAX_ANSWER: usize = 1 << 20;

/// The newest block, by its tag.
pub const LATEST: &str = "latest";

/// How long is waited at first where a node limits how often it is asked; each
/// time twice as long, up to [`LONGEST`], then it is given up.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(8);

/// What nodes say by JSON-RPC when they limit that (EIP-1474, and as HTTP has it).
const LIMITED: [i64; 2] = [-32005, 429];

/// A node.
#[derive(Debug)]
pub struct Rpc {
    http: reqwest::Client,
    url: Url,
}

/// Why a node gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// No connection, or it broke off, or took too long.
    #[error("the node at {host} gave no answer to {method}: {cause}")]
    Away {
        /// Which node.
        host: String,
        /// What was asked.
        method: &'static str,
        /// What happened.
        cause: String,
    },
    /// An answer that is none.
    #[error("the node at {host} answered {method} with something else than JSON-RPC: {cause}")]
    Form {
        /// Which node.
        host: String,
        /// What was asked.
        method: &'static str,
        /// What is wrong.
        cause: String,
    },
    /// It was asked too often.
    #[error("the node at {host} limits how often it is asked ({method}): wait, or use another")]
    Limited {
        /// Which node.
        host: String,
        /// What was asked.
        method: &'static str,
        /// How long it wants to be left alone, if it says.
        rest: Option<Duration>,
    },
    /// It refused.
    #[error("the node at {host} refused {method}: {message}")]
    Refused {
        /// Which node.
        host: String,
        /// What was asked.
        method: &'static str,
        /// What it said.
        message: String,
        /// What a contract answered that refused a call.
        data: Option<Bytes>,
    },
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its block's number.
    pub block: u64,
    /// Whether it did what it was to do.
    pub succeeded: bool,
}

/// A call or transaction as nodes take it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who sends it.
    pub from: Address,
    /// To whom; `None` creates a contract.
    pub to: Option<Address>,
    /// With what.
    pub data: Bytes,
}

/// What a node says of the fees of the newest block, in wei.
#[derive(Clone, Copy, Debug)]
pub struct Fees {
    /// The block's base fee.
    pub base: u128,
    /// What the node suggests on top.
    pub tip: u128,
}

impl Rpc {
    /// The node at `url`.
    ///
    /// # Errors
    /// TLS or proxy settings are unusable.
    pub fn new(url: Url) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("tallystick-anchor/", env!("CARGO_PKG_VERSION")))
            .timeout(Duration::from_secs(20))
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { http, url })
    }

    /// The chain's id.
    ///
    /// # Errors
    /// As for everything here, [`RpcError`].
    pub async fn chain_id(&self) -> Result<u64, RpcError> {
        self.number("eth_chainId", json!([])).await
    }

    /// The number of the newest block.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn height(&self) -> Result<u64, RpcError> {
        self.number("eth_blockNumber", json!([])).await
    }

    /// A contract's code at `block`, a tag or a number; empty where there is none.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn code(&self, address: Address, block: &str) -> Result<Bytes, RpcError> {
        self.ask("eth_getCode", json!([address, block])).await
    }

    /// How many transactions an account has sent, at `block`: a tag.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn nonce(&self, address: Address, block: &str) -> Result<u64, RpcError> {
        self.number("eth_getTransactionCount", json!([address, block]))
            .await
    }

    /// An account's balance in wei.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn balance(&self, address: Address) -> Result<U256, RpcError> {
        self.ask("eth_getBalance", json!([address, LATEST])).await
    }

    /// What is paid for gas now.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn fees(&self) -> Result<Fees, RpcError> {
        let method = "eth_getBlockByNumber";
        let block: Value = self.ask(method, json!([LATEST, false])).await?;
        let base = self.field(method, &block, "baseFeePerGas")?;
        let tip: U256 = self.ask("eth_maxPriorityFeePerGas", json!([])).await?;
        Ok(Fees {
            base,
            tip: tip.saturating_to(),
        })
    }

    /// The number of the newest final block; before there is one, 0.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn finalized(&self) -> Result<u64, RpcError> {
        let method = "eth_getBlockByNumber";
        let block: Option<Value> = self.ask(method, json!(["finalized", false])).await?;
        block.map_or(Ok(0), |block| self.field(method, &block, "number"))
    }

    /// How much gas a call takes.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn estimate(&self, call: &Call) -> Result<u64, RpcError> {
        self.number("eth_estimateGas", json!([call.json()])).await
    }

    /// What a call answers at `block`, a tag or a number.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn call(&self, call: &Call, block: &str) -> Result<Bytes, RpcError> {
        self.ask("eth_call", json!([call.json(), block])).await
    }

    /// Broadcasts a signed transaction.
    ///
    /// # Errors
    /// [`RpcError`]. It may have been broadcast all the same.
    pub async fn send(&self, raw: &Bytes) -> Result<(), RpcError> {
        let sent: Result<B256, _> = self.ask("eth_sendRawTransaction", json!([raw])).await;
        sent.map(drop)
    }

    /// What became of a transaction; `None` while it is in no block.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn receipt(&self, hash: B256) -> Result<Option<Receipt>, RpcError> {
        let method = "eth_getTransactionReceipt";
        let receipt: Option<Value> = self.ask(method, json!([hash])).await?;
        let Some(receipt) = receipt else {
            return Ok(None);
        };
        Ok(Some(Receipt {
            block: self.field(method, &receipt, "blockNumber")?,
            succeeded: self.field::<u64>(method, &receipt, "status")? == 1,
        }))
    }

    /// The node's name, without what could be a secret.
    pub fn host(&self) -> String {
        let port = self.url.port().map_or(String::new(), |p| format!(":{p}"));
        format!("{}{port}", self.url.host_str().unwrap_or_default())
    }

    async fn number(&self, method: &'static str, params: Value) -> Result<u64, RpcError> {
        let number: U256 = self.ask(method, params).await?;
        number.try_into().map_err(|_| RpcError::Form {
            host: self.host(),
            method,
            cause: format!("{number} is above 2^64"),
        })
    }

    fn field<T: TryFrom<U256>>(
        &self,
        method: &'static str,
        of: &Value,
        name: &str,
    ) -> Result<T, RpcError> {
        let number = of.get(name).and_then(|v| U256::deserialize(v).ok());
        number
            .and_then(|number| number.try_into().ok())
            .ok_or_else(|| RpcError::Form {
                host: self.host(),
                method,
                cause: format!("no number {name:?}"),
            })
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, RpcError> {
        let mut pause = PAUSE;
        loop {
            match self.ask_now(method, &params).await {
                Err(RpcError::Limited { rest, .. }) if pause <= LONGEST => {
                    let rest = rest.unwrap_or_default().min(LONGEST);
                    tokio::time::sleep(pause.max(rest)).await;
                    pause *= 2;
                }
                answered => return answered,
            }
        }
    }

    async fn ask_now<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &Value,
    ) -> Result<T, RpcError> {
        let question = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let away = |error: reqwest::Error| RpcError::Away {
            host: self.host(),
            method,
            cause: cause(&error.without_url()),
        };
        let asked = self.http.post(self.url.clone()).json(&question).send();
        let mut answer = asked.await.map_err(away)?;
        let status = answer.status();
        let limited = |rest| RpcError::Limited {
            host: self.host(),
            method,
            rest,
        };
        if status == StatusCode::TOO_MANY_REQUESTS {
            let rest = answer.headers().get(RETRY_AFTER);
            let rest = rest.and_then(|value| value.to_str().ok()?.parse().ok());
            return Err(limited(rest.map(Duration::from_secs)));
        }
        let form = |cause: String| RpcError::Form {
            host: self.host(),
            method,
            cause,
        };
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(away)? {
            if body.len() + part.len() > MAX_ANSWER {
                return Err(form(format!("more than {MAX_ANSWER} bytes")));
            }
            body.extend_from_slice(&part);
        }
        let Ok(answer) = serde_json::from_slice::<Answer>(&body) else {
            return Err(form(format!("status {status}, {} bytes", body.len())));
        };
        if let Some(refusal) = answer.error {
            if LIMITED.contains(&refusal.code) {
                return Err(limited(None));
            }
            return Err(RpcError::Refused {
                host: self.host(),
                method,
                message: refusal.message,
                data: refusal.data.and_then(|data| Bytes::deserialize(data).ok()),
            });
        }
        serde_json::from_value(answer.result).map_err(|error| form(error.to_string()))
    }
}

impl Call {
    fn json(&self) -> Value {
        let mut call = json!({"from": self.from, "data": self.data});
        if let Some(to) = self.to {
            call["to"] = json!(to);
        }
        call
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    result: Value,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: i64,
    message: String,
    data: Option<Value>,
}

/// The innermost cause of an error says what happened.
fn cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
