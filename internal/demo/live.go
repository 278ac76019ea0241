package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"time"

	"connectrpc.com/connect"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/api/verifier/v1/verifierv1connect"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
)

// Files of the evidence that the command line has appraised.
const (
	fileLive     = "live-evidence.json"
	fileAppraise = "live-appraised.json"
)

// liveName is the VM whose evidence does not reach the verifier by itself.
const liveName = "demo-live"

// relay stands before the verifier as a machine's host does: it passes on what
// the guest asks, and keeps back the evidence, whose challenge so stays open for
// whoever sends it. The guest tries again and again.
type relay struct {
	verifierv1connect.UnimplementedVerifierServiceHandler
	kept chan []byte
}

// Appraise implements verifierv1connect.VerifierServiceHandler.
func (l *relay) Appraise(_ context.Context, in *connect.Request[verifierv1.AppraiseRequest]) (*connect.Response[verifierv1.AppraiseResponse], error) {
	select {
	case l.kept <- in.Msg.Evidence:
	default: // it is there already
	}
	return nil, connect.NewError(connect.CodeUnavailable, errors.New("the evidence was kept back"))
}

// startRelay returns a relay before the verifier at an address.
func startRelay(verifier string) (*relay, *httptest.Server) {
	l := &relay{kept: make(chan []byte, 1)}
	_, appraise := verifierv1connect.NewVerifierServiceHandler(l)
	mux := http.NewServeMux()
	mux.Handle(verifierv1connect.VerifierServiceAppraiseProcedure, appraise)
	mux.Handle("/", httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: verifier}))
	return l, httptest.NewServer(mux)
}

// liveEvidence boots the same machine once more, takes its evidence on the way
// to the verifier, and has it appraised as a user does.
func (r *run) liveEvidence(ctx context.Context) error {
	r.begin("appraise", "take a VM's live evidence and have it appraised on the command line")
	l, srv := startRelay(r.verifierAddr)
	defer srv.Close()
	v, err := r.unchanged(liveName)
	if err != nil {
		return err
	}
	s, err := r.spec(v)
	if err != nil {
		return err
	}
	for i := range s.Forwards {
		if s.Forwards[i].Guest == guestVerifier {
			s.Forwards[i].Target = srv.Listener.Addr().String()
		}
	}
	if _, err := r.host.start(ctx, s); err != nil {
		return err
	}
	defer r.host.stop(liveName)
	wait, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	var doc []byte
	select {
	case doc = <-l.kept:
	case <-wait.Done():
		r.tail(liveName)
		return fault.New(fault.ExitInternal, "demo.live", "see the console", "waiting for the evidence of %s: %w", liveName, wait.Err())
	}
	if err := writeFile(r.keep(fileLive), doc); err != nil {
		return err
	}
	out, err := r.command(ctx, "cocoon", "appraise", r.keep(fileLive), "--verifier", "http://"+r.verifierAddr,
		"--key", r.verifierKey.String(), "--allow-development", "--json")
	if err != nil {
		return err
	}
	a, err := readAppraised(out, doc)
	if err != nil {
		return err
	}
	r.note("verdict for %s, trust class %s", short(a.Agreed.Evidence.String()), a.Agreed.TrustClass)
	return writeFile(r.keep(fileAppraise), out)
}

// appraised is what "cocoon appraise --json" says of one verifier.
type appraised struct {
	verdictDoc
	Agreed struct {
		TrustClass string        `json:"trust_class"`
		Evidence   digest.SHA256 `json:"evidence_sha256"`
	} `json:"agreed"`
}

// readAppraised reads the command's answer about evidence.
func readAppraised(out, doc []byte) (*appraised, error) {
	ev, err := evidence.Parse(doc)
	if err != nil {
		return nil, err
	}
	hash, err := ev.Hash()
	if err != nil {
		return nil, err
	}
	var a struct {
		Accepted bool        `json:"accepted"`
		Answers  []appraised `json:"answers"`
	}
	if err := json.Unmarshal(out, &a); err != nil {
		return nil, fmt.Errorf("reading what the verifier answered: %w", err)
	}
	if !a.Accepted || len(a.Answers) != 1 {
		return nil, fault.New(fault.ExitRefused, "demo.live", "see "+fileAppraise, "live evidence was not accepted by one verifier")
	}
	got := &a.Answers[0]
	return got, errors.Join(want("live evidence", got.Agreed.Evidence.String(), hash.String()), want("live trust class", got.Agreed.TrustClass, policy.ClassVTPM))
}

// live holds the evidence that the command line had appraised, and the verdict
// on it, against the files.
func (k *kept) live() (string, error) {
	out, err := k.read(fileAppraise)
	if err != nil {
		return "", err
	}
	doc, err := k.read(fileLive)
	if err != nil {
		return "", err
	}
	a, err := readAppraised(out, doc)
	if err != nil {
		return "", err
	}
	at, ear, err := k.signed(&a.verdictDoc)
	if err != nil {
		return "", err
	}
	_, res, err := k.appraise(fileLive, at)
	if err != nil {
		return "", err
	}
	if err := res.Err(); err != nil {
		return "", err
	}
	return fmt.Sprintf("appraised at %s on the command line, %s", at.Format(time.RFC3339), ear.Status()),
		want("verdict on live evidence", ear.EvidenceSHA256.String(), res.EvidenceSHA256.String())
}
