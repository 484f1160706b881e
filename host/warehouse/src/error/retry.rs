use std::error::Error as StdError;

use super::WarehouseError;

/// What must happen before the same work is worth another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryClass {
    /// Roll back, then run the whole transaction again on the same session.
    Retryable,
    /// Connect anew first; the server may need a moment.
    AfterReconnect,
    /// It fails again until somebody changes something, or it is not known whether it took effect.
    Never,
}

pub(super) fn class(error: &WarehouseError) -> RetryClass {
    match error {
        WarehouseError::Unreachable { source, .. } if is_unknown_host(source.as_ref()) => {
            RetryClass::Never
        }
        WarehouseError::Unreachable { .. } | WarehouseError::ConnectionLost { .. } => {
            RetryClass::AfterReconnect
        }
        WarehouseError::Refused { error, .. } => match of_sqlstate(&error.sqlstate) {
            // There is no session yet that could be used again.
            RetryClass::Retryable => RetryClass::AfterReconnect,
            other => other,
        },
        WarehouseError::Statement(error) | WarehouseError::Timeout(error) => {
            of_sqlstate(&error.sqlstate)
        }
        WarehouseError::Authentication { .. }
        | WarehouseError::Tls { .. }
        | WarehouseError::NoDatabase { .. }
        | WarehouseError::Cancelled(_)
        | WarehouseError::DiskFull(_)
        | WarehouseError::OutcomeUnknown { .. }
        | WarehouseError::AnswerTooLarge { .. }
        | WarehouseError::UnsupportedType { .. }
        | WarehouseError::ParameterCount { .. }
        | WarehouseError::CopySource { .. }
        | WarehouseError::Protocol { .. } => RetryClass::Never,
    }
}

/// Whether the name of the host is nobody's. The standard library keeps the code of `getaddrinfo` to itself and shows it
/// in the words alone; a resolver that does not answer says so, and may answer later.
pub(super) fn is_unknown_host(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let words = error.to_string();
        if words.contains("failed to lookup address information") {
            return !["Temporary failure", "Try again"]
                .iter()
                .any(|passing| words.contains(passing));
        }
        next = error.source();
    }
    false
}

pub(super) fn of_sqlstate(sqlstate: &str) -> RetryClass {
    match sqlstate {
        // Serialization failure, deadlock, lock not available, out of memory.
        "40001" | "40P01" | "55P03" | "53200" => RetryClass::Retryable,
        // A protocol violation is a bug, and a full disk does not empty itself.
        "08P01" | "53100" => RetryClass::Never,
        // Idle and transaction timeouts, which end the session.
        "25P03" | "25P04" => RetryClass::AfterReconnect,
        // Shutdown, crash, starting up, database dropped or idle session; 57014 is a cancel.
        "57P01" | "57P02" | "57P03" | "57P05" => RetryClass::AfterReconnect,
        _ if sqlstate.starts_with("08") || sqlstate.starts_with("53") => RetryClass::AfterReconnect,
        _ => RetryClass::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_are_classed() {
        for (sqlstate, class) in [
            ("40001", RetryClass::Retryable),
            ("40P01", RetryClass::Retryable),
            ("55P03", RetryClass::Retryable),
            ("53200", RetryClass::Retryable),
            ("53300", RetryClass::AfterReconnect),
            ("53100", RetryClass::Never),
            ("57P01", RetryClass::AfterReconnect),
            ("57P03", RetryClass::AfterReconnect),
            ("57014", RetryClass::Never),
            ("08006", RetryClass::AfterReconnect),
            ("08P01", RetryClass::Never),
            ("42P01", RetryClass::Never),
            ("23505", RetryClass::Never),
        ] {
            assert_eq!(of_sqlstate(sqlstate), class, "{sqlstate}");
        }
    }

    #[test]
    fn a_host_that_nobody_knows_is_not_asked_again() {
        let class_of = |words: &str| {
            class(&WarehouseError::Unreachable {
                server: "db:5432".into(),
                source: std::io::Error::other(words).into(),
            })
        };
        let looked_up = "failed to lookup address information:";
        for nobody in ["Name or service not known", "Name does not resolve"] {
            assert_eq!(
                class_of(&format!("{looked_up} {nobody}")),
                RetryClass::Never
            );
        }
        for passing in [
            format!("{looked_up} Temporary failure in name resolution"),
            "Connection refused (os error 111)".to_owned(),
        ] {
            assert_eq!(class_of(&passing), RetryClass::AfterReconnect, "{passing}");
        }
        // What the system says of a name that none can have.
        let found = std::net::ToSocketAddrs::to_socket_addrs(&("stepwell..invalid", 5432));
        let words = found.expect_err("nobody has that name").to_string();
        assert!(
            words.contains("failed to lookup address information"),
            "{words}"
        );
    }

    #[test]
    fn an_unknown_outcome_is_never_repeated() {
        let error = WarehouseError::OutcomeUnknown {
            said: None,
            source: None,
        };
        assert_eq!(class(&error), RetryClass::Never);
    }
}
