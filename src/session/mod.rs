//! One client, from first byte to Terminate. (The integrator's file; here only so that `cancel` compiles.)

pub mod cancel;
