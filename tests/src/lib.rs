//! What the tests of this workspace share: small networks, seeded data, file tests, and ways to run a step.

pub mod cc;
pub mod filetest;
pub mod images;
pub mod networks;
pub mod python;
pub mod random;
pub mod session;
pub mod step;
