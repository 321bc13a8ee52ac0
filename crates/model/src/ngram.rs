//! x
/// N.
#[derive(Default)]
pub struct NgramDrafter;
impl crate::drafter::Drafter for NgramDrafter { fn draft(&mut self, _: sled_core::sampler::Context<'_>, _: &sled_core::sampler::Sampler) -> Result<Option<sled_core::sampler::Draft>, crate::Error> { Ok(None) } }
