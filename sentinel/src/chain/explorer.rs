//! Chains by name, and where people look at them.

use protocol::hash::Hash;
use protocol::name::Address;

/// Id, name, explorer.
const KNOWN: [(u64, &str, &str); 6] = [
    (1, "Ethereum", "https://etherscan.io"),
    (10, "OP Mainnet", "https://optimistic.etherscan.io"),
    (8_453, "Base", "https://basescan.org"),
    (42_161, "Arbitrum One", "https://arbiscan.io"),
    (84_532, "Base Sepolia", "https://sepolia.basescan.org"),
    (11_155_111, "Sepolia", "https://sepolia.etherscan.io"),
];

/// A chain's name with its id.
pub fn name(chain_id: u64) -> String {
    match KNOWN.iter().find(|(id, ..)| *id == chain_id) {
        Some((id, name, _)) => format!("{name} (chain {id})"),
        None => format!("chain {chain_id}"),
    }
}

/// Where a transaction or, without one, a contract is shown, if that is known.
pub fn link(chain_id: u64, contract: Address, transaction: Option<Hash>) -> Option<String> {
    let (.., explorer) = KNOWN.iter().find(|(id, ..)| *id == chain_id)?;
    Some(match transaction {
        Some(transaction) => format!("{explorer}/tx/0x{transaction}"),
        None => format!("{explorer}/address/{contract}"),
    })
}
