//! What the tests of this workspace share: small networks, seeded data, and ways to run a step.

pub mod networks;
pub mod random;
