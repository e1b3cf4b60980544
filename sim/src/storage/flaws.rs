//! Deliberate faults in what ships: a specimen is the storage with one guard missing in its plans, or the engine with one
//! of its decisions altered where its steps enter the store. The simulator must find each; the correct ones have none.

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
    /// A handler's error is recorded as success.
    ErrorAsSuccess,
    /// A handler's panic is swallowed: the attempt counts as done.
    PanicAsSuccess,
    /// An attempt that went wrong is followed by another at once.
    RetryWithoutBackoff,
    /// A running task's cancel is acknowledged and not recorded.
    CancelForgotten,
    /// A rescue judges the state that it has read, not the one that it finds.
    RescueOverwritesEnd,
    /// A commit that was a rollback is taken for one that succeeded.
    CommitTagIgnored,
    /// A process answers reads of a task with the first row that it saw of it.
    RowCacheInClient,
    /// Commits are acknowledged before they are on the disk: a crash of the database loses the last of them.
    RelaxedDurability,
}

impl Flaw {
    /// All of them.
    pub const ALL: [Flaw; 17] = [
        Flaw::UnfencedTransition,
        Flaw::NoShareLockOnParents,
        Flaw::LimitCountedBeforeLock,
        Flaw::UncheckedLeaseOnReclaim,
        Flaw::RetryIgnoresCancel,
        Flaw::NoShareLockOnHolder,
        Flaw::PromotionInStatementOfEnd,
        Flaw::PromotionWithoutLocks,
        Flaw::UnfencedReport,
        Flaw::ErrorAsSuccess,
        Flaw::PanicAsSuccess,
        Flaw::RetryWithoutBackoff,
        Flaw::CancelForgotten,
        Flaw::RescueOverwritesEnd,
        Flaw::CommitTagIgnored,
        Flaw::RowCacheInClient,
        Flaw::RelaxedDurability,
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
            Flaw::ErrorAsSuccess => "error-as-success",
            Flaw::PanicAsSuccess => "panic-as-success",
            Flaw::RetryWithoutBackoff => "retry-without-backoff",
            Flaw::CancelForgotten => "cancel-forgotten",
            Flaw::RescueOverwritesEnd => "rescue-overwrites-end",
            Flaw::CommitTagIgnored => "commit-tag-ignored",
            Flaw::RowCacheInClient => "row-cache-in-client",
            Flaw::RelaxedDurability => "relaxed-durability",
        }
    }
}
