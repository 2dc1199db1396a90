//! The client for providers that the operator configured.

use std::io;
use std::time::Duration;

use super::connections;
use crate::connect::Connector;

/// A client of the providers that the operator configured.
pub(super) type Client = connections::Client<Connector>;

/// A client on the system's certificate authorities.
pub(super) fn client(connect_within: Duration) -> io::Result<Client> {
    Ok(Client::new(Connector::new(connect_within)?))
}
