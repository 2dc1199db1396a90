//! Chains by name, and where people look at them.

use protocol::hash::Hash;
use protocol::name::Address;
use protocol::network::Network;

/// A chain's name, if it has one, with its id.
pub fn name(chain_id: u64) -> String {
    match Network::of(chain_id) {
        Some(network) => format!("{} (chain {chain_id})", network.title),
        None => format!("chain {chain_id}"),
    }
}

/// Where a transaction or, without one, a contract is shown, if that is known.
pub fn link(chain_id: u64, contract: Address, transaction: Option<Hash>) -> Option<String> {
    let explorer = Network::of(chain_id)?.explorer?;
    Some(match transaction {
        Some(transaction) => format!("{explorer}/tx/0x{transaction}"),
        None => format!("{explorer}/address/{contract}"),
    })
}
