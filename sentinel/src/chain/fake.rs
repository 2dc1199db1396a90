//! A node for tests, which says what it is told to, and a chain for it to tell of.

use std::sync::Arc;
use std::time::Duration;

use k256::ecdsa::SigningKey;
use protocol::anchor::ChainLog;
use protocol::consent::recover;
use protocol::hash::Hash;
use protocol::index::{Time, TreeSize};
use protocol::name::Address;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::abi;
use super::contract::{Anchor, Emitted, Statement};
use super::node::Node;

/// An answer.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A result.
    Result(Value),
    /// A refusal, with its code.
    Error(i64, String),
    /// A status and a body.
    Raw(u16, Vec<u8>),
    /// The connection ends.
    Cut,
}

/// A running one.
pub(crate) struct Fake(Url);

impl Fake {
    /// Starts one that answers methods with their parameters so.
    pub(crate) async fn start(
        answer: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = Arc::clone(&answer);
                // A client that went away is no matter of the node's.
                tokio::spawn(async move { serve(stream, &*answer).await });
            }
        });
        Self(Url::parse(&format!("http://{address}/")).expect("an address"))
    }

    /// Where it is.
    pub(crate) fn url(&self) -> Url {
        self.0.clone()
    }

    /// The way to it.
    pub(crate) fn node(&self, number: usize) -> Node {
        Node::new(number, self.url(), Duration::from_secs(5)).expect("a client")
    }
}

/// Answers one request and closes.
async fn serve(
    mut stream: TcpStream,
    answer: &(dyn Fn(&str, &Value) -> Reply + Sync),
) -> Option<()> {
    let mut read = vec![];
    let (head, len) = loop {
        let mut part = [0; 4096];
        let n = stream.read(&mut part).await.ok().filter(|n| *n > 0)?;
        read.extend_from_slice(&part[..n]);
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&read[..end]).to_lowercase();
            let len = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"));
            break (end + 4, len?.trim().parse::<usize>().ok()?);
        }
    };
    while read.len() < head + len {
        let mut part = [0; 4096];
        let n = stream.read(&mut part).await.ok().filter(|n| *n > 0)?;
        read.extend_from_slice(&part[..n]);
    }
    let question: Value = serde_json::from_slice(&read[head..]).ok()?;
    let (status, body) = match answer(question["method"].as_str()?, &question["params"]) {
        Reply::Result(result) => (
            200,
            json!({ "id": 1, "result": result })
                .to_string()
                .into_bytes(),
        ),
        Reply::Error(code, message) => {
            let error = json!({ "code": code, "message": message });
            (
                200,
                json!({ "id": 1, "error": error }).to_string().into_bytes(),
            )
        }
        Reply::Raw(status, body) => (status, body),
        Reply::Cut => return None,
    };
    let head = format!(
        "HTTP/1.1 {status} So\r\nlocation: http://192.0.2.1/\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(&body).await.ok()?;
    stream.shutdown().await.ok()
}

/// The signature of the EVM key of `seed`.
fn sign(seed: u8, digest: [u8; 32]) -> [u8; 65] {
    let key = SigningKey::from_slice(&[seed; 32]).expect("a secret");
    let (signature, recovery) = key.sign_prehash_recoverable(&digest).expect("a digest");
    let mut bytes = [0; 65];
    bytes[..64].copy_from_slice(&signature.to_bytes());
    bytes[64] = 27 + recovery.to_byte();
    bytes
}

/// The address of the EVM key of `seed`.
pub(crate) fn evm_key(seed: u8) -> Address {
    recover([1; 32], &sign(seed, [1; 32])).expect("own signature")
}

/// What the EVM key of `seed` signs of `log`.
pub(crate) fn statement(
    seed: u8,
    log: &ChainLog,
    (size, root, time): (u64, Hash, u64),
) -> Statement {
    let entries = TreeSize::new(size).expect("small");
    let digest = log.checkpoint_digest(entries, root, Time::from_secs(time).expect("small"));
    Statement {
        size,
        root,
        time,
        signature: sign(seed, digest),
    }
}

/// A chain with a block every two seconds, and one contract.
#[derive(Clone)]
pub(crate) struct Ledger {
    pub(crate) chain_id: u64,
    /// The newest final block.
    pub(crate) last: u64,
    pub(crate) address: Address,
    pub(crate) code: Vec<u8>,
    pub(crate) origin: String,
    pub(crate) anchors: Vec<Anchor>,
    /// What events say.
    pub(crate) events: Vec<(Anchor, Emitted)>,
    /// How many blocks are looked through at most.
    pub(crate) most: u64,
}

impl Ledger {
    /// With an anchor in each of these blocks, over ten entries more each time.
    pub(crate) fn new(address: Address, code: Vec<u8>, blocks: &[u64]) -> Self {
        let anchors = (0..).zip(blocks).map(|(index, block)| Anchor {
            index,
            size: 10 * (index + 1),
            root: Hash::of(&index.to_be_bytes()),
            time: 900 + block,
            block_time: Self::time(*block),
        });
        let anchors: Vec<Anchor> = anchors.collect();
        let emitted = blocks.iter().map(|block| Emitted {
            block: *block,
            transaction: Hash::of(&[&b"transaction"[..], &block.to_be_bytes()].concat()),
        });
        Self {
            chain_id: 5,
            last: blocks.last().map_or(9, |last| last + 9),
            address,
            code,
            origin: "a.b".into(),
            events: anchors.iter().copied().zip(emitted).collect(),
            anchors,
            most: u64::MAX,
        }
    }

    pub(crate) fn time(block: u64) -> u64 {
        1_000 + 2 * block
    }

    pub(crate) fn block_hash(block: u64) -> Hash {
        Hash::of(&block.to_be_bytes())
    }

    /// A node that tells of it.
    pub(crate) async fn serve(self) -> Fake {
        Fake::start(move |method, params| self.answer(method, params)).await
    }

    fn answer(&self, method: &str, params: &Value) -> Reply {
        let hex = |number: u64| format!("0x{number:x}");
        let number = |value: &Value| abi::quantity(value).expect("a quantity");
        let result = match method {
            "eth_chainId" => hex(self.chain_id).into(),
            "eth_getBlockByNumber" => {
                let block = abi::quantity(&params[0]).unwrap_or(self.last);
                json!({
                    "number": hex(block), "timestamp": hex(Self::time(block)),
                    "hash": format!("0x{}", Self::block_hash(block)),
                })
            }
            "eth_getCode" => abi::hex(&self.code).into(),
            "eth_call" => {
                let at = format!("0x{}", Self::block_hash(self.last));
                assert_eq!(params[1]["blockHash"], at, "all of one state");
                let data = abi::bytes(params[0]["data"].as_str().expect("a text")).expect("hex");
                return self.call(&data);
            }
            "eth_getLogs" => {
                let (from, to) = (
                    number(&params[0]["fromBlock"]),
                    number(&params[0]["toBlock"]),
                );
                if to - from >= self.most {
                    return Reply::Error(-32_000, "too many blocks".into());
                }
                let within = self.events.iter();
                let within = within.filter(|(_, emitted)| (from..=to).contains(&emitted.block));
                within.map(|event| self.log(event)).collect()
            }
            other => panic!("nobody asks for {other}"),
        };
        Reply::Result(result)
    }

    fn call(&self, data: &[u8]) -> Reply {
        let (selector, argument) = data.split_at(4);
        let words: Vec<[u8; 32]> = match abi::hex(selector).as_str() {
            "0x06661abd" => vec![abi::word(self.anchors.len() as u64)],
            "0x16994960" => {
                let index = argument.try_into().ok().and_then(abi::number);
                let index = usize::try_from(index.expect("a word")).expect("small");
                let Some(anchor) = self.anchors.get(index) else {
                    return Reply::Error(3, "execution reverted".into());
                };
                let (size, root) = (abi::word(anchor.size), *anchor.root.as_bytes());
                vec![
                    size,
                    root,
                    abi::word(anchor.time),
                    abi::word(anchor.block_time),
                ]
            }
            "0x16c72721" | "0x2eb38ae0" => vec![abi::word(0)],
            "0x938b5f32" => {
                let mut text = self.origin.clone().into_bytes();
                text.resize(32, 0);
                let text = text.try_into().expect("a short one");
                vec![abi::word(32), abi::word(self.origin.len() as u64), text]
            }
            other => panic!("nobody calls {other}"),
        };
        Reply::Result(abi::hex(&words.concat()).into())
    }

    fn log(&self, (anchor, emitted): &(Anchor, Emitted)) -> Value {
        let topic = "0x91e05141ac080a2cef06d69499b831b2668545cffe0b3a8f4dbb2ca9fda87112";
        let data = [abi::word(anchor.index), abi::word(anchor.time)].concat();
        json!({
            "address": self.address.to_string(),
            "topics": [topic, abi::hex(&abi::word(anchor.size)), format!("0x{}", anchor.root)],
            "data": abi::hex(&data), "blockNumber": format!("0x{:x}", emitted.block),
            "transactionHash": format!("0x{}", emitted.transaction), "removed": false,
        })
    }
}
