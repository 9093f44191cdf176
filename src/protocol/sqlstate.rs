//! Pure: our own errors as a client sees them; the one table from what went wrong to SQLSTATE, severity and text.

/// Whose fault an error is: the metric's label, and whether people on call should care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Client,
    Server,
    Proxy,
    Operator,
}

impl Fault {
    /// The metrics' name.
    pub fn label(self) -> &'static str {
        match self {
            Fault::Client => "client",
            Fault::Server => "server",
            Fault::Proxy => "proxy",
            Fault::Operator => "operator",
        }
    }
}

/// What goes into an ErrorResponse of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientError {
    /// `ERROR` or `FATAL`.
    pub severity: &'static str,
    pub sqlstate: &'static str,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub fault: Fault,
}

impl ClientError {
    fn new(fault: Fault, severity: &'static str, sqlstate: &'static str, message: impl Into<String>) -> ClientError {
        ClientError { severity, sqlstate, message: message.into(), detail: None, hint: None, fault }
    }

    fn detail(mut self, detail: impl Into<String>) -> ClientError {
        self.detail = Some(detail.into());
        self
    }

    /// The client broke the protocol (PostgreSQL's own texts).
    pub fn protocol_violation(message: impl Into<String>) -> ClientError {
        ClientError::new(Fault::Client, "FATAL", "08P01", message)
    }

    /// The client's own cancel, in PostgreSQL's words.
    pub fn canceled() -> ClientError {
        ClientError::new(Fault::Client, "ERROR", "57014", "canceling statement due to user request")
    }

    /// No server connection came free in time.
    pub fn checkout_timeout(pool: &str) -> ClientError {
        ClientError::new(
            Fault::Operator,
            "ERROR",
            "53300",
            format!("pgweir: no server connection of pool {pool} came free within checkout_timeout"),
        )
    }

    /// The node could not be reached.
    pub fn unreachable(node: &str, why: &str) -> ClientError {
        ClientError::new(Fault::Server, "ERROR", "08006", format!("pgweir: could not connect to node {node}"))
            .detail(why)
    }

    /// There is no primary, and there was none within failover_timeout.
    pub fn no_primary() -> ClientError {
        ClientError::new(Fault::Server, "ERROR", "57P03", "pgweir: there is no primary at the moment")
    }

    /// `on_no_replica = "error"`.
    pub fn no_replica() -> ClientError {
        ClientError::new(Fault::Operator, "ERROR", "57P03", "pgweir: no replica may answer this read at the moment")
    }

    /// A replica's connection died after a part of its reply had been forwarded.
    pub fn reply_cut(node: &str) -> ClientError {
        ClientError::new(
            Fault::Server,
            "FATAL",
            "08006",
            format!("pgweir: the connection to replica {node} was lost in the middle of its reply"),
        )
    }

    /// The primary's connection died while it worked on something that may have been done or not.
    pub fn outcome_unknown(node: &str) -> ClientError {
        ClientError::new(
            Fault::Server,
            "FATAL",
            "08007",
            format!(
                "pgweir: the connection to primary {node} was lost, and whether its last statement took effect is unknown"
            ),
        )
    }

    /// The connection died with what the session kept in it, while nothing was under way.
    pub fn session_lost(node: &str) -> ClientError {
        ClientError::new(
            Fault::Server,
            "FATAL",
            "08006",
            format!("pgweir: the connection to node {node} was lost, and with it what this session had left there"),
        )
    }

    pub fn shutdown() -> ClientError {
        ClientError::new(Fault::Operator, "FATAL", "57P01", "terminating connection due to administrator command")
    }

    pub fn too_many_statements(limit: usize) -> ClientError {
        ClientError::new(
            Fault::Client,
            "ERROR",
            "54000",
            format!("pgweir: a session may hold at most {limit} prepared statements"),
        )
    }

    pub fn invalid_setting(name: &str, value: &str, allowed: &str) -> ClientError {
        ClientError::new(
            Fault::Client,
            "ERROR",
            "22023",
            format!("invalid value for parameter \"{name}\": \"{value}\""),
        )
        .detail(allowed)
    }
}
