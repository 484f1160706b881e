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
    fn an_unknown_outcome_is_never_repeated() {
        let error = WarehouseError::OutcomeUnknown {
            said: None,
            source: None,
        };
        assert_eq!(class(&error), RetryClass::Never);
    }
}
