//! Deliberate faults in the store's plans: a specimen is the storage that ships with one guard missing. The simulator
//! must find each; the correct plans have none.

/// One altered plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// Settling doesn't compare the fence.
    UnfencedTransition,
    /// An adder reads its parents without a share lock.
    NoShareLockOnParents,
    /// A limit is counted before its row is locked.
    LimitCountedBeforeLock,
    /// A rescue doesn't check again that the lease has lapsed.
    UncheckedLeaseOnReclaim,
    /// A retry ignores that somebody asked to cancel.
    RetryIgnoresCancel,
    /// Whoever waits for a slot reads its holder without a share lock.
    NoShareLockOnHolder,
    /// The first who waits for a slot gets it in the statement that ends the holder.
    PromotionInStatementOfEnd,
    /// The first who waits for a slot is chosen before those who wait are locked.
    PromotionWithoutLocks,
    /// A report doesn't compare the fence.
    UnfencedReport,
}

impl Flaw {
    /// All of them.
    pub const ALL: [Flaw; 9] = [
        Flaw::UnfencedTransition,
        Flaw::NoShareLockOnParents,
        Flaw::LimitCountedBeforeLock,
        Flaw::UncheckedLeaseOnReclaim,
        Flaw::RetryIgnoresCancel,
        Flaw::NoShareLockOnHolder,
        Flaw::PromotionInStatementOfEnd,
        Flaw::PromotionWithoutLocks,
        Flaw::UnfencedReport,
    ];

    /// Its name on the command line and in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Flaw::UnfencedTransition => "unfenced-transition",
            Flaw::NoShareLockOnParents => "no-share-lock-on-parents",
            Flaw::LimitCountedBeforeLock => "limit-counted-before-lock",
            Flaw::UncheckedLeaseOnReclaim => "unchecked-lease-on-reclaim",
            Flaw::RetryIgnoresCancel => "retry-ignores-cancel",
            Flaw::NoShareLockOnHolder => "no-share-lock-on-holder",
            Flaw::PromotionInStatementOfEnd => "promotion-in-statement-of-end",
            Flaw::PromotionWithoutLocks => "promotion-without-locks",
            Flaw::UnfencedReport => "unfenced-report",
        }
    }
}
