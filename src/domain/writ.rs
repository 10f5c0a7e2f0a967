//! Who may write (design section 5).
