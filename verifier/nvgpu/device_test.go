package nvgpu_test

import (
	"crypto/sha256"
	"crypto/x509"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgpu/spdm"
	"cocoon/verifier/nvgputest"
	"cocoon/verifier/result"
)

// scene is one device with everything that a full verification needs. Tests
// change it before it is made.
type scene struct {
	p       *nvgputest.PKI
	device  nvgputest.Device
	rims    []nvgputest.RIM
	status  map[int]string // OCSP status by position: 1 to 3 the device's chain, then 0 to 2 the RIM signers'
	ocspAt  time.Time
	nonce   []byte // that the OCSP responses echo
	claimed nvgpu.Arch
	o       nvgpu.Options
	change  func(*nvgpu.Item) // after it is made
}

var nonce = sha256.Sum256([]byte("a nonce"))

func newScene(t testing.TB, d nvgputest.Device) *scene {
	t.Helper()
	p, err := nvgputest.New("scene")
	if err != nil {
		t.Fatal(err)
	}
	return &scene{p: p, device: d, rims: nvgputest.RIMs(&d), status: map[int]string{}, ocspAt: nvgputest.Now.Add(-time.Hour),
		o: nvgpu.Options{Roots: p.Roots(), RIMRoots: p.RIMRoots(), Now: nvgputest.Now, Nonce: nonce, OCSPMaxAge: 24 * time.Hour}}
}

// make makes item and options.
func (s *scene) make(t testing.TB) (nvgpu.Item, *nvgpu.Options) {
	t.Helper()
	it, err := s.p.Make(&s.device, nonce)
	if err != nil {
		t.Fatal(err)
	}
	it.Arch = s.claimed
	o := s.o
	if o.RIMs, err = s.p.SignAll(s.rims); err != nil {
		t.Fatal(err)
	}
	answered := map[string]bool{}
	answer := func(cert *x509.Certificate, status string) {
		if answered[string(cert.Raw)] {
			return
		}
		answered[string(cert.Raw)] = true
		if status == "" {
			status = nvgputest.Good
		}
		if status == "none" {
			return
		}
		der, err := s.p.OCSP(cert, status, s.ocspAt, s.nonce)
		if err != nil {
			t.Fatal(err)
		}
		o.OCSP = append(o.OCSP, der)
	}
	for i := 1; i < 4; i++ {
		cert, err := x509.ParseCertificate(it.Chain[i])
		if err != nil {
			t.Fatal(err)
		}
		answer(cert, s.status[i])
	}
	for _, r := range s.rims {
		if r.OtherRoot {
			continue
		}
		certs, err := s.p.Signers(&r)
		if err != nil {
			t.Fatal(err)
		}
		for i, cert := range certs {
			answer(cert, s.status[4+i])
		}
	}
	if s.change != nil {
		s.change(&it)
	}
	return it, &o
}

// checked verifies and returns the checks that failed and were skipped.
func (s *scene) checked(t testing.TB) (bad, skipped string, m *nvgpu.Machine) {
	t.Helper()
	it, o := s.make(t)
	m = verified(t, []nvgpu.Item{it}, o)
	var skips []string
	for _, c := range m.Checks() {
		if c.Status == result.Skip {
			skips = append(skips, strings.TrimPrefix(c.ID, "gpu."))
		}
	}
	return failed(m.Checks()), strings.Join(skips, " "), m
}

func gpu() nvgputest.Device { return nvgputest.GPU(1) }

func TestSyntheticDevices(t *testing.T) {
	clone := func(r *nvgputest.RIM) { r.Active = maps.Clone(r.Active) }
	for name, c := range map[string]struct {
		device       nvgputest.Device
		change       func(*scene)
		bad, skipped string
		measured     string
		mode         nvgpu.Mode
	}{
		"a Hopper GPU with everything":             {device: gpu(), skipped: "count", measured: "32 of 32 match; 35 is not compared: NVDEC0 is disabled", mode: nvgpu.SPT},
		"a Blackwell GPU in multi GPU passthrough": {device: nvgputest.BlackwellGPU(0), skipped: "count", measured: "33 of 33 match", mode: nvgpu.MPT},
		"a switch": {device: nvgputest.Switch(0), skipped: "count modes topology fwid", measured: "31 of 31 match"},

		"architecture named right":                   {device: gpu(), change: func(s *scene) { s.claimed = nvgpu.Hopper }, skipped: "count", mode: nvgpu.SPT},
		"architecture named wrong":                   {device: gpu(), change: func(s *scene) { s.claimed = nvgpu.Blackwell }, bad: "arch"},
		"a GPU called a switch":                      {device: gpu(), change: func(s *scene) { s.claimed = nvgpu.LS10 }, bad: "arch"},
		"a report of another chip":                   {device: nvgputest.BlackwellGPU(0), change: func(s *scene) { s.device.ChipInfo = "GB110" }, bad: "arch"},
		"a provisioner of another chip":              {device: gpu(), change: func(s *scene) { s.device.Issuer = "LS_10" }, bad: "count chain"},
		"a chip that nobody knows":                   {device: gpu(), change: func(s *scene) { s.device.Chip = "GA100" }, bad: "count chain"},
		"another root":                               {device: gpu(), change: func(s *scene) { s.o.Roots = nvgpu.NVIDIARoots() }, bad: "count chain"},
		"a leaf that is not valid yet":               {device: gpu(), change: func(s *scene) { s.device.NotBefore = nvgputest.Now.Add(time.Minute) }, bad: "chain"},
		"another nonce":                              {device: gpu(), change: func(s *scene) { s.o.Nonce[31] ^= 1 }, bad: "nonce"},
		"a short chain":                              {device: gpu(), change: func(s *scene) { s.change = func(it *nvgpu.Item) { it.Chain = it.Chain[:4] } }, bad: "count chain"},
		"a chain with the root twice":                {device: gpu(), change: func(s *scene) { s.change = func(it *nvgpu.Item) { it.Chain = append(it.Chain, it.Chain[4]) } }, bad: "count chain"},
		"a byte after the report":                    {device: gpu(), change: func(s *scene) { s.change = func(it *nvgpu.Item) { it.Report = append(it.Report, 0) } }, bad: "modes parse"},
		"firmware that the key is not for":           {device: gpu(), change: func(s *scene) { s.device.Reported = "another" }, bad: "fwid"},
		"Blackwell firmware that the key is not for": {device: nvgputest.BlackwellGPU(1), change: func(s *scene) { s.device.Reported = "another" }, bad: "fwid"},
		"no firmware ID in the certificate":          {device: gpu(), change: func(s *scene) { s.device.Extensions = []string{} }, bad: "fwid"},
		"two firmware IDs in the certificate":        {device: gpu(), change: func(s *scene) { s.device.Extensions = []string{"GH100", "GB100"} }, bad: "fwid"},
		"the other form of the firmware ID":          {device: gpu(), change: func(s *scene) { s.device.Extensions = []string{"GB100"} }, skipped: "count", mode: nvgpu.SPT},
		"an identity of another family":              {device: gpu(), change: func(s *scene) { s.device.Identity = "GB100" }, bad: "count chain"},
		"no firmware ID":                             {device: gpu(), change: func(s *scene) { s.device.NoFWID = true }, skipped: "count fwid", mode: nvgpu.SPT},

		"an unknown mode":                  {device: nvgputest.BlackwellGPU(0), change: func(s *scene) { s.device.Feature = 3 }, bad: "modes mode"},
		"multi GPU passthrough on Hopper":  {device: gpu(), change: func(s *scene) { s.device.Feature, s.device.Protected = spdm.FeatureMPT, 0 }, bad: "modes mode"},
		"modes that contradict each other": {device: gpu(), change: func(s *scene) { s.device.Feature = spdm.FeaturePPCIE }, bad: "modes mode"},
		"protected PCIe without a board":   {device: gpu(), change: func(s *scene) { s.device.Feature, s.device.Protected = spdm.FeaturePPCIE, 0xAA }, bad: "topology", mode: nvgpu.PPCIE},

		"one measurement that differs":             {device: gpu(), change: func(s *scene) { s.device.Changed = map[int]string{22: "x"} }, bad: "measurements"},
		"the mode's measurement differs":           {device: gpu(), change: func(s *scene) { s.device.Changed = map[int]string{9: "devtools"} }, bad: "measurements devtools"},
		"a measurement that nobody names":          {device: gpu(), change: func(s *scene) { s.device.Changed = map[int]string{60: "x"} }, skipped: "count", mode: nvgpu.SPT},
		"measurements that are not there":          {device: gpu(), change: func(s *scene) { s.device.Measurements = 40 }, bad: "measurements"},
		"NVDEC0 disabled, its measurement differs": {device: gpu(), change: func(s *scene) { s.device.Changed = map[int]string{35: "x"} }, skipped: "count", mode: nvgpu.SPT},
		"NVDEC0 enabled, its measurement differs":  {device: gpu(), change: func(s *scene) { s.device.NVDEC0, s.device.Changed = 0xAA, map[int]string{35: "x"} }, bad: "measurements"},
		"NVDEC0 enabled":                           {device: gpu(), change: func(s *scene) { s.device.NVDEC0 = 0xAA }, skipped: "count", measured: "33 of 33 match", mode: nvgpu.SPT},
		"NVDEC0 of an unknown state":               {device: gpu(), change: func(s *scene) { s.device.NVDEC0 = 0x42 }, bad: "measurements"},
		"NVDEC0 not reported":                      {device: gpu(), change: func(s *scene) { s.device.NVDEC0 = 0 }, bad: "measurements"},
		"an index in both documents":               {device: gpu(), change: func(s *scene) { clone(&s.rims[0]); s.rims[0].Active[9] = 1 }, bad: "measurements"},
		"documents that name nothing":              {device: gpu(), change: func(s *scene) { s.rims[0].Active, s.rims[1].Active = nil, nil }, bad: "measurements"},

		"no RIM of the driver":             {device: gpu(), change: func(s *scene) { s.rims = s.rims[1:] }, bad: "rim.driver"},
		"no RIM at all":                    {device: gpu(), change: func(s *scene) { s.rims = nil }, bad: "rim.driver rim.vbios"},
		"no RIM at all, which is allowed":  {device: gpu(), change: func(s *scene) { s.rims, s.o.NoRIM = nil, true }, skipped: "count rim.driver rim.vbios rim.ocsp measurements devtools", mode: nvgpu.SPT},
		"a RIM that differs, no other":     {device: gpu(), change: func(s *scene) { s.rims, s.o.NoRIM, s.device.Changed = s.rims[1:], true, map[int]string{3: "x"} }, bad: "measurements"},
		"a RIM of another driver":          {device: gpu(), change: func(s *scene) { s.rims[0].Version = "550.90.08" }, bad: "rim.driver"},
		"a RIM of another product":         {device: gpu(), change: func(s *scene) { s.rims[0].Product = "GB100" }, bad: "rim.driver"},
		"a RIM of a switch":                {device: gpu(), change: func(s *scene) { s.rims[1].Edition = "SWITCH" }, bad: "rim.vbios"},
		"a RIM under another root":         {device: gpu(), change: func(s *scene) { s.rims[0].OtherRoot = true }, bad: "rim.chain rim.driver"},
		"an expired RIM":                   {device: gpu(), change: func(s *scene) { s.rims[0].NotAfter = nvgputest.Now.Add(-time.Second) }, bad: "rim.driver"},
		"an expired RIM, which is allowed": {device: gpu(), change: func(s *scene) { s.rims[0].NotAfter, s.o.AllowExpiredRIM = nvgputest.Now.Add(-time.Second), true }, skipped: "count", mode: nvgpu.SPT},
		"a RIM that is not valid yet":      {device: gpu(), change: func(s *scene) { s.rims[0].NotBefore, s.o.AllowExpiredRIM = nvgputest.Now.Add(time.Minute), true }, bad: "rim.validity rim.driver"},
		"a newer RIM takes a measurement back": {device: gpu(), change: func(s *scene) {
			newer := s.rims[0]
			newer.NotBefore, newer.Wrong = nvgputest.Now.AddDate(0, -1, 0), map[int]bool{30: true}
			s.rims = append(s.rims, newer)
		}, bad: "measurements"},
		"an older RIM beside the newer one": {device: gpu(), change: func(s *scene) {
			older := s.rims[0]
			older.NotBefore, older.NotAfter, older.Wrong = nvgputest.Now.AddDate(-2, 0, 0), nvgputest.Now.AddDate(0, -1, 0), map[int]bool{30: true}
			s.rims = append(s.rims, older)
		}, skipped: "ocsp.unused count", mode: nvgpu.SPT},

		"a revoked boot ROM":                         {device: gpu(), change: func(s *scene) { s.status[1] = nvgputest.Revoked }, bad: "ocsp"},
		"a provisioner on hold":                      {device: gpu(), change: func(s *scene) { s.status[2] = nvgputest.Hold }, bad: "ocsp"},
		"a provisioner on hold, which is allowed":    {device: gpu(), change: func(s *scene) { s.status[2], s.o.AllowHold = nvgputest.Hold, true }, skipped: "count", mode: nvgpu.SPT},
		"a revoked boot ROM where holds are allowed": {device: gpu(), change: func(s *scene) { s.status[1], s.o.AllowHold = nvgputest.Revoked, true }, bad: "ocsp"},
		"an identity that its issuer does not know":  {device: gpu(), change: func(s *scene) { s.status[3] = nvgputest.Unknown }, bad: "ocsp"},
		"no answer for the boot ROM":                 {device: gpu(), change: func(s *scene) { s.status[1] = "none" }, skipped: "count ocsp", mode: nvgpu.SPT},
		"a revoked RIM signer":                       {device: gpu(), change: func(s *scene) { s.status[4] = nvgputest.Revoked }, bad: "rim.ocsp"},
		"answers of the day before yesterday":        {device: gpu(), change: func(s *scene) { s.ocspAt = nvgputest.Now.AddDate(0, 0, -2) }, bad: "ocsp rim.ocsp"},
		"answers that are too old for the policy":    {device: gpu(), change: func(s *scene) { s.o.OCSPMaxAge = 10 * time.Minute }, bad: "ocsp rim.ocsp"},
		"answers of tomorrow":                        {device: gpu(), change: func(s *scene) { s.ocspAt = nvgputest.Now.AddDate(0, 0, 1) }, bad: "ocsp rim.ocsp"},
		"answers with the nonce":                     {device: gpu(), change: func(s *scene) { s.nonce = []byte("a nonce of 32 bytes for the test"); s.o.OCSPNonce = s.nonce }, skipped: "count", mode: nvgpu.SPT},
		"answers with another nonce":                 {device: gpu(), change: func(s *scene) { s.nonce = []byte("a nonce of 32 bytes for the test"); s.o.OCSPNonce = make([]byte, 32) }, bad: "ocsp rim.ocsp"},
		"answers without the nonce":                  {device: gpu(), change: func(s *scene) { s.o.OCSPNonce = make([]byte, 32) }, bad: "ocsp rim.ocsp"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, c.device)
			s.rims = slices.Clone(s.rims)
			if c.change != nil {
				c.change(s)
			}
			bad, skipped, m := s.checked(t)
			if bad != c.bad {
				t.Errorf("failed %q, want %q\n%.2000v", bad, c.bad, m.Failed())
			}
			d := m.Devices[0]
			if c.bad != "" {
				return
			}
			if skipped != c.skipped || d.Mode != c.mode {
				t.Errorf("skipped %q, want %q; mode %q, want %q", skipped, c.skipped, d.Mode, c.mode)
			}
			if got := d.Check("gpu.measurements").Actual; c.measured != "" && got != c.measured {
				t.Errorf("measurements: %q, want %q", got, c.measured)
			}
		})
	}
}

// TestARevocationBesideGoodAnswersIsOne gives both for one certificate, and
// then more good answers than are looked at.
func TestARevocationBesideGoodAnswersIsOne(t *testing.T) {
	s := newScene(t, gpu())
	it, o := s.make(t)
	cert, err := x509.ParseCertificate(it.Chain[1])
	if err != nil {
		t.Fatal(err)
	}
	revoked, err := s.p.OCSP(cert, nvgputest.Revoked, s.ocspAt, nil)
	if err != nil {
		t.Fatal(err)
	}
	good := o.OCSP
	for name, answers := range map[string][][]byte{"before": append([][]byte{revoked}, good...), "behind": append(slices.Clone(good), revoked),
		"before many": append([][]byte{revoked}, slices.Repeat(good[:1], 100)...)} {
		o.OCSP = answers
		if d := verified(t, []nvgpu.Item{it}, o).Devices[0]; d.Check("gpu.ocsp").Status != result.Fail {
			t.Errorf("%s: %+v", name, d.Check("gpu.ocsp"))
		}
	}
	junk := slices.Clone(good[0])
	junk[len(junk)-1] ^= 1
	o.OCSP = slices.Repeat([][]byte{junk}, 100)
	if d := verified(t, []nvgpu.Item{it}, o).Devices[0]; d.Check("gpu.ocsp").Status != result.Fail {
		t.Errorf("junk: %+v", d.Check("gpu.ocsp"))
	}
}

// TestAResultEndsWithWhatItRestsOn holds NotAfter against the earliest of
// RIM signers and OCSP responses.
func TestAResultEndsWithWhatItRestsOn(t *testing.T) {
	s := newScene(t, gpu())
	_, _, m := s.checked(t)
	if want := s.ocspAt.AddDate(0, 0, 1); !m.NotAfter.Equal(want) {
		t.Errorf("good until %s, want that of the OCSP responses, %s", m.NotAfter, want)
	}
	s.rims[1].NotAfter = nvgputest.Now.Add(time.Hour)
	if _, _, m = s.checked(t); !m.NotAfter.Equal(s.rims[1].NotAfter) {
		t.Errorf("good until %s, want that of the RIM's signer, %s", m.NotAfter, s.rims[1].NotAfter)
	}
}

// TestACacheChangesNothing verifies good and bad evidence with a warm cache.
func TestACacheChangesNothing(t *testing.T) {
	s := newScene(t, gpu())
	it, o := s.make(t)
	o.Cache = nvgpu.NewCache(nvgpu.CacheOptions{})
	for range 3 {
		if bad := failed(verified(t, []nvgpu.Item{it}, o).Checks()); bad != "" {
			t.Fatal(bad)
		}
	}
	if issuers, chains := o.Cache.Len(); issuers != 1 || chains != 1 {
		t.Errorf("%d issuers, %d chains are kept", issuers, chains)
	}
	late := *o
	late.Now = nvgputest.Now.AddDate(40, 0, 0)
	if bad := failed(verified(t, []nvgpu.Item{it}, &late).Checks()); bad != "chain ocsp rim.driver rim.vbios" {
		t.Errorf("in forty years: %q", bad)
	}
	other := *o
	other.Roots = nvgpu.NVIDIARoots()
	if bad := failed(verified(t, []nvgpu.Item{it}, &other).Checks()); bad != "count chain" {
		t.Errorf("under other roots: %q", bad)
	}
	forged := it
	forged.Report = slices.Clone(it.Report)
	forged.Report[60] ^= 1
	if bad := failed(verified(t, []nvgpu.Item{forged}, o).Checks()); bad != "signature measurements" {
		t.Errorf("a forged report: %q", bad)
	}
}
