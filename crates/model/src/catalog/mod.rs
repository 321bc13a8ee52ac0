//! stub
use std::path::PathBuf;
use crate::Error;
/// r
pub struct ModelRef(PathBuf);
impl ModelRef { /// p
 pub fn parse(s: &str) -> Result<Self, Error> { Ok(Self(s.into())) } }
/// s
pub struct Store;
/// p
pub trait Progress {}
impl Store { /// f
 pub fn from_env() -> Result<Self, Error> { Ok(Self) }
 /// l
 pub fn locate(&self, r: &ModelRef) -> Result<PathBuf, Error> { Ok(r.0.clone()) }
 /// l
 pub fn pull(&self, r: &ModelRef, _: &mut dyn Progress) -> Result<PathBuf, Error> { Ok(r.0.clone()) }
}
