//! The contract `TallystickAnchor`: its ABI, taken from the committed artifact,
//! so that nothing here needs a compiler for Solidity.
//!
//! Out of scope: the address and what the log signs (`protocol::anchor`).

alloy_sol_types::sol!(
    #[derive(Debug, PartialEq, Eq)]
    TallystickAnchor,
    "contract/artifact.json"
);
