//! What a chain says of contract wallets' signatures (EIP-1271).
//!
//! Out of scope: what comes of its word (see [`crate::pass`]).

use protocol::consent::{Message, Signature};
use protocol::entry::{Body, Entry};
use protocol::hash::Hash;
use protocol::key::Origin;
use serde_json::json;

use super::panel::{At, Called, Panel, Silence};
use super::{RpcError, abi};

/// `isValidSignature(bytes32,bytes)`, and what it answers of a valid one.
const MAGIC: [u8; 4] = [0x16, 0x26, 0xba, 0x7e];

/// What a chain says of a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// The contract accepted it at that block.
    Valid,
    /// It did not, or there is no such block.
    Invalid(String),
    /// No node can say.
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

/// Asks about every contract's signature in a binding entry: the nodes of its
/// chain, of those that said of which they are; the `silent` ones did not.
pub async fn binding(
    (panels, silent): (&[Panel], &[RpcError]),
    entry: &[u8],
    origin: &Origin,
) -> Word {
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
        let wanted = asked.message.terms.chain_id;
        let word = match panels.iter().find(|panel| panel.chain_id() == wanted) {
            Some(panel) => ask(panel, &asked)
                .await
                .unwrap_or_else(|silence| Word::Unknown(silence.to_string())),
            None => Word::Unknown(match silent.first() {
                Some(error) => error.to_string(),
                None => format!("no --rpc-url is of chain {wanted}"),
            }),
        };
        if word != Word::Valid {
            return word;
        }
    }
    Word::Valid
}

async fn ask(panel: &Panel, asked: &Asked<'_>) -> Result<Word, Silence> {
    let (number, expected) = asked.block;
    let read = |block: &serde_json::Value| {
        if block.is_null() {
            return Some(None);
        }
        Some(Some(abi::hash(&block["hash"])?))
    };
    let params = json!([format!("0x{number:x}"), false]);
    let Some(found) = panel.ask("eth_getBlockByNumber", params, read).await? else {
        return Ok(Word::Unknown(format!(
            "the node does not know block {number}"
        )));
    };
    if found != expected {
        return Ok(Word::Invalid(format!(
            "block {number} of chain {} has the hash {found}, the entry names {expected}",
            panel.chain_id()
        )));
    }
    let wallet = asked.message.wallet;
    let called = panel
        .call(wallet, &call_data(asked), At::Block(expected))
        .await?;
    Ok(match called {
        Called::Returned(answer) if accepts(&answer) => Word::Valid,
        Called::Returned(answer) => Word::Invalid(format!(
            "{wallet} answers {} at block {number}, not {}",
            abi::hex(&answer[..answer.len().min(64)]),
            abi::hex(&MAGIC)
        )),
        Called::Reverted => Word::Invalid(format!("{wallet} refuses it at block {number}")),
    })
}

/// Whether an answer is one word that begins with the magic value and ends in zeros.
fn accepts(answer: &[u8]) -> bool {
    let rest = answer.strip_prefix(&MAGIC);
    rest.is_some_and(|rest| rest == [0; 28])
}

/// The call in the contract ABI: the hash, where the bytes are, their number
/// and themselves, padded to whole words.
fn call_data(asked: &Asked<'_>) -> Vec<u8> {
    let mut data = [&MAGIC[..], &asked.message.digest()].concat();
    data.extend(abi::word(0x40));
    data.extend(abi::word(asked.signature.len() as u64));
    data.extend(asked.signature);
    data.resize((data.len() - 4).next_multiple_of(32) + 4, 0);
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
        let word = |start: &[u8]| {
            let mut word = start.to_vec();
            word.resize(32, 0);
            word
        };
        for (answer, accepted) in [
            (word(&MAGIC), true),
            (word(&[0x16, 0x26, 0xba, 0x7f]), false),
            (word(&[0x16, 0x26, 0xba, 0x7e, 0, 0, 0, 1]), false),
            (MAGIC.to_vec(), false),
            ([word(&MAGIC), vec![0]].concat(), false),
            (vec![], false),
        ] {
            assert_eq!(accepts(&answer), accepted, "{answer:?}");
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
            assert_eq!(abi::hex(&call_data(&asked)), expected);
        }
    }
}
