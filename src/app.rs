//! todo
use crate::config::Config;
/// todo
#[derive(Debug, thiserror::Error)]
pub enum AppError {}
/// todo
pub async fn serve(_config: Config, _say: impl FnMut(&str)) -> Result<(), AppError> {
    Ok(())
}
