mod fake;
mod golden;
mod live;
mod passes;
