//! The shaders as text, and plans over them: everything that needs no device. A new shader in `ops::shaders()` is
//! covered without a change here.

mod dispatch;
mod order;
mod record;
mod wgsl;
