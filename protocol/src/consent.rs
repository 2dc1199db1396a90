//! What a wallet signs: the EIP-4361 message, rebuilt from fields and a fixed
//! text, and the signature on it.
//!
//! Out of scope: what the signature brings about (see [`crate::binding`]), and
//! asking a chain about contract wallets.

use alloc::vec::Vec;
use core::fmt;

use alloy_primitives::{Signature as Ecdsa, eip191_hash_message};

use crate::hash::Hash;
use crate::index::Time;
use crate::key::Origin;
use crate::name::Address;

/// The last second that a message can name, 9999-12-31T23:59:59Z.
pub const MAX_TIME: u64 = 253_402_300_799;

/// The longest signature of a contract wallet, in bytes.
pub const MAX_CONTRACT_SIGNATURE: usize = 2_048;

/// What the signer agrees to; each has its own text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A free key shall count for the signer.
    Link,
    /// The signer's key shall count for it no more.
    Release,
    /// The signer's key shall count for another wallet.
    Give {
        /// Who takes it.
        to: Address,
    },
    /// Another wallet's key shall count for the signer.
    Take {
        /// Who gives it.
        from: Address,
    },
}

/// On which chain and for how long a message is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The EIP-155 chain id, at least 1; for a contract wallet the chain it is on.
    pub chain_id: u64,
    /// When the message was made, at most [`MAX_TIME`].
    pub issued_at: Time,
    /// From when on it holds no more, at most [`MAX_TIME`].
    pub expires_at: Time,
}

/// The text that a wallet signs (PROTOCOL.md, "The message"); `Display` writes it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The log.
    pub origin: &'a Origin,
    /// Which key.
    pub key_id: Hash,
    /// The leaf hash of the key's previous binding entry, or of entry 0.
    pub previous: Hash,
    /// Who signs.
    pub wallet: Address,
    /// What the signer agrees to.
    pub role: Role,
    /// Chain and times.
    pub terms: Terms,
}

/// A wallet's signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// Of an account with a key (EIP-191, version `E`): r, s, v.
    Eip191([u8; 65]),
    /// Of a contract (EIP-1271): its `isValidSignature` accepted these bytes
    /// at a block of the message's chain.
    Eip1271 {
        /// The block's number.
        block: u64,
        /// The block's hash.
        block_hash: Hash,
        /// What the contract was given, at most [`MAX_CONTRACT_SIGNATURE`] bytes.
        bytes: Vec<u8>,
    },
}

/// Why a signature is not the wallet's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// v names neither of the two points.
    #[error("the signature's v is {0}, expected 27 or 28")]
    Parity(u8),
    /// A second spelling of a valid signature.
    #[error("the signature's s is in the upper half of the order")]
    HighS,
    /// No public key fits.
    #[error("the signature is on no key: r or s is out of range, or r is no point")]
    NoKey,
    /// Somebody else's signature, or on another text.
    #[error("the signature is of {found} on this message, expected {expected}")]
    Signer {
        /// The wallet that should have signed.
        expected: Address,
        /// Who did.
        found: Address,
    },
}

impl Message<'_> {
    /// What is signed: keccak-256 of the text with its EIP-191 prefix.
    pub fn digest(&self) -> [u8; 32] {
        eip191_hash_message(alloc::format!("{self}")).0
    }

    /// Verifies a signature of an account with a key (scheme `eip191`).
    ///
    /// # Errors
    /// Another v than 27 and 28, a high s, numbers out of range, another signer.
    pub fn verify(&self, signature: &[u8; 65]) -> Result<(), SignatureError> {
        let found = recover(self.digest(), signature)?;
        let expected = self.wallet;
        (found == expected)
            .then_some(())
            .ok_or(SignatureError::Signer { expected, found })
    }

    fn statement(&self) -> &'static str {
        match self.role {
            Role::Link => LINK,
            Role::Release => RELEASE,
            Role::Give { .. } => GIVE,
            Role::Take { .. } => TAKE,
        }
    }
}

/// Whose key made a signature (SEC 1 section 4.1.6) on a digest.
///
/// # Errors
/// As [`Message::verify`], but for another signer.
pub fn recover(digest: [u8; 32], signature: &[u8; 65]) -> Result<Address, SignatureError> {
    let odd = match signature[64] {
        27 => false,
        28 => true,
        other => return Err(SignatureError::Parity(other)),
    };
    let ecdsa = Ecdsa::from_bytes_and_parity(&signature[..64], odd);
    if ecdsa.normalize_s().is_some() {
        return Err(SignatureError::HighS);
    }
    let address = ecdsa.recover_address_from_prehash(&digest.into());
    let address = address.map_err(|_| SignatureError::NoKey)?;
    Ok(Address::from_bytes(address.into_array()))
}

const LINK: &str = "I bind the key named below to this wallet in the log named below. \
     From then on, and until I release it, the log publishes under this wallet the time, \
     provider, model and token counts of every call made with this key. What is published \
     stays public for ever. Prompts, answers, credentials and network addresses are not stored.";
const RELEASE: &str = "I release the key named below in the log named below: calls made with \
     it count for this wallet no more. What was published under this wallet stays public for ever.";
const GIVE: &str = "I give the key named below to the wallet named below in the log named \
     below: calls made with it count for my wallet no more. What was published under my wallet \
     stays public for ever.";
const TAKE: &str = "I take the key named below over from the wallet named below in the log \
     named below. From then on, and until I release it, the log publishes under my wallet the \
     time, provider, model and token counts of every call made with this key. What is published \
     stays public for ever. Prompts, answers, credentials and network addresses are not stored.";

impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = self.origin.as_str();
        let host = origin.split('/').next().unwrap_or_default();
        let Terms {
            chain_id,
            issued_at,
            expires_at,
        } = self.terms;
        write!(
            f,
            "{host} wants you to sign in with your Ethereum account:\n{}\n\n{}\n\n\
             URI: https://{origin}\nVersion: 1\nChain ID: {chain_id}\nNonce: {}\n",
            self.wallet.checksummed(),
            self.statement(),
            self.previous,
        )?;
        writeln!(f, "Issued At: {}", Utc(issued_at))?;
        writeln!(f, "Expiration Time: {}", Utc(expires_at))?;
        write!(f, "Resources:\n- tallystick:log:{origin}\n")?;
        write!(f, "- tallystick:key:{}", self.key_id)?;
        match self.role {
            Role::Link | Role::Release => Ok(()),
            Role::Give { to } => write!(f, "\n- tallystick:to:{}", to.checksummed()),
            Role::Take { from } => write!(f, "\n- tallystick:from:{}", from.checksummed()),
        }
    }
}

/// `YYYY-MM-DDTHH:MM:SSZ` (RFC 3339).
struct Utc(Time);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = i64::try_from(self.0.secs()).map_err(|_| fmt::Error)?;
        let at = time::UtcDateTime::from_unix_timestamp(secs).map_err(|_| fmt::Error)?;
        let (year, month, day) = at.to_calendar_date();
        let (hour, minute, second) = at.as_hms();
        let month = u8::from(month);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}
