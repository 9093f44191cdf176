//! One client, from first byte to Terminate.

pub mod login;
pub mod refusal;
pub mod startup;
