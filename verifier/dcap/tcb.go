package dcap

import (
	"cocoon/verifier/tcb"
)

// Evaluate finds the TCB status and records it. svn is TEE_TCB_SVN of a TD
// report (nil: SGX), current its TEE_TCB_SVN2 where the report has one. It
// does nothing unless Sound.
//
// A status other than Revoked and NotSupported is no fault: whether it will
// do is a matter of policy.
func (r *Run) Evaluate(svn, current *[16]byte) {
	if !r.Sound() {
		r.Skip(r.ids.tcbStatus, "cryptography or binding failed")
		return
	}
	info, qe := r.Set.TCBInfo(), r.Set.QEIdentity()
	x := &r.Platform.Chain.Extensions
	p := tcb.Platform{CPUSVN: x.Components, PCESVN: x.PCESVN}
	if svn != nil {
		p.TEETCBSVN = *svn
	}
	t := &r.Result.TCB
	t.Verdict = info.Evaluate(&p, qe, r.QE.ISVSVN)
	t.Evaluation, t.QEEvaluation = info.Evaluation, qe.Evaluation
	if current != nil {
		launch := t.Verdict
		p.TEETCBSVN = *current
		now := info.Evaluate(&p, qe, r.QE.ISVSVN)
		t.Launch, t.Current = &launch, &now
		// TcbLevelCheck.cpp, step 4.1.2.5.20: both must have a level.
		if launch.Status == tcb.NotSupported || now.Status == tcb.NotSupported {
			t.Verdict = tcb.Verdict{Status: tcb.NotSupported}
		} else {
			t.Status = tcb.Relaunch(launch.Status, now.Status)
		}
	}
	if t.Status == tcb.Revoked || t.Status == tcb.NotSupported {
		r.note(t.Status.Fault(r.tee.Name))
		return
	}
	r.Pass(r.ids.tcbStatus)
	r.Result.Checks[len(r.Result.Checks)-1].Actual = string(t.Status)
}
