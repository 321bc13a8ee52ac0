use std::time::Duration; use sled_sim::{*,recording::Recording,replay::Replay,experiment::*,cost::StepCost}; use sled_core::{policy::Policy,device::Ahead};
fn main(){ let r=Recording::load(std::path::Path::new("data/drafts.json")).unwrap(); let replay=Replay::new(&r);
 let ms=|x:f64|Duration::from_secs_f64(x/1e3);
 let arg: Vec<String>=std::env::args().collect();
 let mut pol=vec![]; for k in 1..=8 {pol.push(Policy::Fixed{k});} for t in 3..=9 {pol.push(Policy::Confidence{threshold:t as f32/10.,k_max:8});} pol.push(Policy::Goodput);

 for (name,a,b,d) in [("cpu",118.,17.,20.),("gpu70",29.,0.17,20.),("gpu70 d5",29.,0.17,5.),("gpu8",10.,0.06,20.),("gpu8 d5",10.,0.06,5.)] { for rtt in [0.,20.,50.,100.,200.,400.] {
  let reg=Regime{cost:StepCost::from_millis(a,b),draft_time:ms(d),rtt:ms(rtt),devices:1,outputs:60};
  let bound: f64 = { let t: f64=replay.outputs().iter().map(|o| oracle::least_time(o,ms(d),ms(rtt),reg.cost).as_secs_f64()).sum(); replay.outputs().iter().map(|o|o.tokens.len()).sum::<usize>() as f64/t};
  let c=run(&replay,&reg,None,Ahead::Blocks,1).unwrap().tokens_per_s; let mut s=format!("{name} {rtt} bound {bound:.1} thin {c:.1}");
  for (an,ahead,p) in [("sync",Ahead::Nothing,Policy::Goodput),("async",Ahead::Drafts,Policy::Goodput),("pipe",Ahead::Blocks,Policy::Goodput),("syncC.5",Ahead::Nothing,pol[10]),("asyncC",Ahead::Drafts,pol[10]),("pipeC",Ahead::Blocks,pol[10]),("pk1",Ahead::Blocks,pol[0])] {
   let f=run(&replay,&reg,Some(p),ahead,1).unwrap(); s+=&format!(" {an}={:.1}({:.0}%)/{:.2}",f.tokens_per_s,100.*f.tokens_per_s/bound,f.rows_per_token);} println!("{s}"); } } }
