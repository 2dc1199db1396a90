//! EVM chains that are known by name, and the explorers that show them.
//!
//! For people to read: nothing is verified by it.

/// A chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its id (EIP-155).
    pub id: u64,
    /// As commands take it.
    pub name: &'static str,
    /// As pages show it.
    pub title: &'static str,
    /// The beginning of its explorer's addresses: `/tx/0x..` and
    /// `/address/0x..` follow. A chain of one's own has none.
    pub explorer: Option<&'static str>,
}

/// The chains that are known.
pub const NETWORKS: &[Network] = &[
    network(1, "ethereum", "Ethereum", "https://etherscan.io"),
    network(10, "op", "OP Mainnet", "https://optimistic.etherscan.io"),
    network(8_453, "base", "Base", "https://basescan.org"),
    network(42_161, "arbitrum", "Arbitrum One", "https://arbiscan.io"),
    network(
        84_532,
        "base-sepolia",
        "Base Sepolia",
        "https://sepolia.basescan.org",
    ),
    network(
        11_155_111,
        "sepolia",
        "Sepolia",
        "https://sepolia.etherscan.io",
    ),
    Network {
        id: 31_337,
        name: "anvil",
        title: "Anvil",
        explorer: None,
    },
];

impl Network {
    /// The chain of this id, if it is known.
    pub fn of(id: u64) -> Option<&'static Self> {
        NETWORKS.iter().find(|network| network.id == id)
    }
}

const fn network(
    id: u64,
    name: &'static str,
    title: &'static str,
    explorer: &'static str,
) -> Network {
    Network {
        id,
        name,
        title,
        explorer: Some(explorer),
    }
}
