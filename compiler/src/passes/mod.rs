//! The passes, one file each. [`pipeline`](crate::pipeline) lists them and says why they run in their order.

pub mod cut_layers;
pub mod derive_updates;
pub mod eliminate_dead;
pub mod insert_goodness_heads;
pub mod insert_look_ahead;
pub mod insert_normalization;
pub mod insert_preparation;
pub mod insert_quantizers;
pub mod insert_scores;
pub mod join_blocks;

mod build;
mod image_size;
