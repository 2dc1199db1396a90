//! What chains say, by plain JSON-RPC through any nodes of theirs: of contract
//! wallets' signatures, and of the contracts that keep a log's roots.
//!
//! ```text
//! Chains ─> panel     the nodes of one chain, which must agree
//!   │         └─> node    one node: JSON-RPC over HTTP
//!   ├─────> wallet    EIP-1271
//!   └─────> contract  a log's anchors
//! ```
//!
//! What all nodes of a chain say is believed: whoever runs the sentinel chose
//! them. Where they fall silent or disagree there is no verdict. Out of scope:
//! what comes of their word (see [`crate::pass`] and [`crate::anchored`]).

mod abi;
pub mod contract;
pub mod explorer;
#[cfg(test)]
pub(crate) mod fake;
pub mod node;
pub mod panel;
mod wallet;

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Url;
use serde_json::json;

use node::{Node, RpcError};
use panel::Panel;
pub use wallet::{Word, binding};

/// Nodes, of one chain or of several.
#[derive(Clone, Debug)]
pub struct Chains {
    nodes: Vec<Node>,
}

impl Chains {
    /// Nodes to ask; an answer may take as long as `timeout`.
    ///
    /// # Errors
    /// TLS or proxy settings are unusable.
    pub fn new(nodes: Vec<Url>, timeout: Duration) -> Result<Self, reqwest::Error> {
        let nodes = (1..).zip(nodes);
        let nodes = nodes.map(|(number, url)| Node::new(number, url, timeout));
        Ok(Self {
            nodes: nodes.collect::<Result<_, _>>()?,
        })
    }

    /// Whether there is one to ask at all.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The nodes by the chain that each says it is of, and why some did not say.
    pub async fn panels(&self) -> (Vec<Panel>, Vec<RpcError>) {
        let mut chains: BTreeMap<u64, Vec<Node>> = BTreeMap::new();
        let mut silent = vec![];
        let method = "eth_chainId";
        // Of no chain yet.
        let all = Panel::new(0, self.nodes.clone());
        for (node, id) in all.each(method, json!([])).await {
            let id = id.and_then(|id| {
                let read = abi::quantity(&id);
                read.ok_or_else(|| node.form(method, node::plain(&id.to_string())))
            });
            match id {
                Ok(id) => chains.entry(id).or_default().push(node.clone()),
                Err(error) => silent.push(error),
            }
        }
        let panels = chains.into_iter();
        (
            panels.map(|(id, nodes)| Panel::new(id, nodes)).collect(),
            silent,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fake::{Fake, Reply};

    #[tokio::test]
    async fn nodes_are_taken_by_their_chains() {
        let mut urls = vec![];
        for id in ["0x1", "0x2105", "0x1", "one"] {
            let fake = Fake::start(move |_, _| Reply::Result(id.into())).await;
            urls.push(fake.url());
        }
        let chains = Chains::new(urls, Duration::from_secs(5)).expect("clients");
        let (panels, silent) = chains.panels().await;
        let ids: Vec<u64> = panels.iter().map(Panel::chain_id).collect();
        assert_eq!(ids, [1, 8_453]);
        assert!(format!("{:?}", panels[0]).contains("node 3 ("));
        assert!(
            matches!(&silent[..], [RpcError::Form { node, .. }] if node.starts_with("node 4 "))
        );
    }
}
