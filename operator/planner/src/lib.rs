//! The planner: what will fit, when it will finish, what it saves. It reads traces and drives the production core
//! offline: there is no second implementation of any decision. Pure: what it reads is given to it as text or bytes.

pub mod budgets;
pub mod explain;
pub mod facts;
pub mod openb;
pub mod queues;
pub mod record;
pub mod replay;
pub mod simulation;
mod together;
