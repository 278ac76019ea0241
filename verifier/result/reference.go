package result

import (
	"maps"
	"strings"
)

// Reference is the document, and the section of it, that a check follows. Of
// the project's own documents it is the path in the repository and the heading.
type Reference struct {
	Document string `json:"document"`
	Section  string `json:"section"`
}

// Documents that checks follow.
const (
	docQVL     = "Intel SGX and TDX DCAP Quote Verification Library"
	docQuote   = "Intel TDX DCAP Quoting Library API"
	docSGX     = "Intel SGX ECDSA Quote Library Reference"
	docPCS     = "Intel SGX and TDX Provisioning Certification Service API, version 4"
	docPCK     = "Intel SGX PCK Certificate and CRL Profile Specification"
	docTDX     = "Intel TDX Module ABI Reference Specification"
	docGHCI    = "Intel TDX Guest-Host Communication Interface"
	docSNP     = "AMD 56860, SEV-SNP Firmware ABI Specification"
	docKDS     = "AMD 57230, VCEK Certificate and KDS Interface Specification"
	docTPM2    = "TCG TPM 2.0 Library, Part 2: Structures"
	docTPM3    = "TCG TPM 2.0 Library, Part 3: Commands"
	docPFP     = "TCG PC Client Platform Firmware Profile 1.06"
	docDICE    = "TCG DICE Attestation Architecture"
	docRIM     = "TCG PC Client Reference Integrity Manifest Information Model"
	docXML     = "W3C XML Signature Syntax and Processing 1.1"
	docSPDM    = "DMTF DSP0274, Security Protocol and Data Model 1.1"
	docX509    = "RFC 5280"
	docOCSP    = "RFC 6960"
	docNonce   = "RFC 8954"
	docTLS     = "RFC 8446"
	docJCS     = "RFC 8785"
	docEAT     = "RFC 9711"
	docCEL     = "Common Expression Language specification"
	docVerdict = "docs/verifier-api.md"
	docPolicy  = "docs/policy.md"
	docQuotes  = "docs/verify-quotes.md"
	docSNPPage = "docs/verify-snp.md"
	docTPMPage = "docs/verify-tpm.md"
	docGPU     = "docs/verify-gpu.md"
	docGPURIM  = "docs/gpu-rims.md"
	docMeasure = "docs/measurements.md"
)

// references says of every check what it follows. An ID that ends in a dot
// stands for all that begin with it; the longest counts. reference_test.go
// holds the table against the IDs in the sources, both ways.
var references = map[string]Reference{
	// Form, binding and freshness of evidence.
	"evidence.parse":             {docJCS, "3.1, Creation of Input Data"},
	"evidence.profile":           {docVerdict, "Requests"},
	"evidence.config":            {docVerdict, "Checks"},
	"evidence.type.unsupported":  {docVerdict, "Checks"},
	"evidence.cpu.unchecked":     {docVerdict, "Checks"},
	"evidence.cpu.refused":       {docVerdict, "Checks"},
	"evidence.cpu.type":          {docVerdict, "Checks"},
	"foreign.unbound":            {docVerdict, "Recorded evidence"},
	"nonce.inputs":               {docVerdict, "Requests"},
	"nonce.challenge":            {docEAT, "4.1, eat_nonce"},
	"claims.nonce":               {docEAT, "4.1, eat_nonce"},
	"claims.encoding":            {docJCS, "3.2, Generation of Canonical JSON Data"},
	"claims.config_sha256":       {docVerdict, "Checks"},
	"claims.model":               {docVerdict, "Checks"},
	"claims.gpu_evidence_sha256": {docGPU, "In a worker's evidence"},
	"claims.stages_sha256":       {docVerdict, "Checks"},
	"claims.keys":                {docVerdict, "Checks"},
	"tls.spki":                   {docTLS, "4.4.3, Certificate Verify"},

	// Policy.
	"policy.missing":     {docPolicy, "Policies"},
	"policy.trust_class": {docPolicy, "Sections"},
	"policy.test_roots":  {docPolicy, "Test roots"},
	"policy.rule.":       {docCEL, "Language Definition"},
	"policy.tpm":         {docTPMPage, "TPM quotes"},
	"policy.tdx":         {docQuotes, "Policy"},
	"policy.tdx.":        {docQuotes, "Policy"},
	"policy.sgx.":        {docQuotes, "Policy"},
	"policy.snp.":        {docSNPPage, "Policy"},
	"gpu.policy.":        {docGPU, "Policy"},

	// Manifest, registry, image, config, model.
	"manifest.trusted":           {docVerdict, "Manifest"},
	"manifest.revoked":           {docVerdict, "Policy"},
	"manifest.debug":             {docVerdict, "Manifest"},
	"manifest.sunset":            {docVerdict, "Manifest"},
	"manifest.grace":             {docVerdict, "Manifest"},
	"manifest.registry":          {docVerdict, "Policy"},
	"manifest.tcb_floor":         {docVerdict, "Manifest"},
	"manifest.":                  {docVerdict, "Manifest"}, // and the TEE without reference values
	"registry.state":             {docVerdict, "Policy"},
	"model.registry":             {docVerdict, "Policy"},
	"model.name":                 {docVerdict, "Manifest"},
	"model.verity_root":          {docVerdict, "Manifest"},
	"config.role":                {docVerdict, "Manifest"},
	"config.platform":            {docVerdict, "Manifest"},
	"config.init_block":          {docVerdict, "Manifest"},
	"config.sealer":              {docVerdict, "Manifest"},
	"config.gpus.mode":           {docVerdict, "Manifest"},
	"config.network_id":          {docVerdict, "Manifest"},
	"config.registry":            {docVerdict, "Manifest"},
	"config.engine.kind":         {docVerdict, "Manifest"},
	"config.engine.image_digest": {docVerdict, "Manifest"},
	"config.engine.args":         {docVerdict, "Manifest"},
	"image.registers":            {docPFP, "10.2, event log"},
	"image.kernel":               {docPFP, "3.3.4, PCR Usage"},
	"image.initrd":               {docMeasure, "Each register"},
	"image.cmdline":              {docMeasure, "Each register"},
	"image.root":                 {docMeasure, "Each register"},
	"image.launch_digest":        {docSNP, "SNP_LAUNCH_UPDATE"},
	"firmware.pcr0":              {docPFP, "3.3.4, PCR Usage"},
	"firmware.pcr7":              {docPFP, "3.3.4, PCR Usage"},
	"firmware.mrtd":              {docTDX, "MRTD"},
	"firmware.servicetd":         {docTDX, "SERVTD_BIND"},
	"pcr.":                       {docPFP, "3.3.4, PCR Usage"},
	"rtmr.":                      {docMeasure, "Each register"},

	// Intel: collateral, PCK chain, quote, TCB.
	"dcap.collateral.parse":         {docPCS, "Get TCB Info"},
	"dcap.collateral.signature":     {docQVL, "TcbInfoVerifier.cpp, EnclaveIdentityVerifier.cpp"},
	"dcap.collateral.current":       {docQVL, "QuoteVerifier.cpp, expiration checks"},
	"dcap.collateral.expired":       {docQVL, "QuoteVerifier.cpp, expiration checks"},
	"dcap.collateral.not_yet_valid": {docQVL, "QuoteVerifier.cpp, expiration checks"},
	"dcap.collateral.missing":       {docPCS, "Get TCB Info"},
	"dcap.collateral.":              {docQuotes, "Collateral"}, // and the part that fails
	"dcap.collateral.root":          {docPCK, "trust hierarchy"},
	"dcap.collateral.tee":           {docQVL, "QuoteVerifier.cpp, 4.1.2.5.15"},
	"dcap.collateral.fmspc":         {docQVL, "QuoteVerifier.cpp, 4.1.2.5.10"},
	"dcap.collateral.pceid":         {docQVL, "QuoteVerifier.cpp, 4.1.2.5.11"},
	"dcap.collateral.pck_crl":       {docPCK, "CRL profile"},
	"dcap.collateral.fetch.":        {docPCS, "Response codes"},
	"dcap.pck.missing":              {docQuote, "A.3, QE certification data"},
	"dcap.pck.chain":                {docX509, "6.1, Basic Path Validation"},
	"dcap.pck.root":                 {docPCK, "trust hierarchy"},
	"dcap.pck.expired":              {docX509, "6.1, Basic Path Validation"},
	"dcap.pck.revoked":              {docX509, "6.3, CRL Validation"},
	"tdx.quote.parse":               {docQuote, "A.3, version 4, and A.4, version 5, quote format"},
	"tdx.quote.signature":           {docQVL, "QuoteVerifier.cpp, 4.1.2.5.17"},
	"tdx.quote.attestation_key":     {docQuote, "A.3, ECDSA attestation key"},
	"tdx.quote.vendor":              {docQuote, "A.3, quote header"},
	"tdx.qe.signature":              {docQVL, "QuoteVerifier.cpp, 4.1.2.5.13"},
	"tdx.qe.binding":                {docQVL, "QuoteVerifier.cpp, 4.1.2.5.14"},
	"tdx.qe.identity":               {docQVL, "EnclaveReportVerifier.cpp, 4.1.2.9.5 to 4.1.2.9.8"},
	"tdx.tcb.":                      {docQVL, "TcbLevelCheck.cpp, 4.1.2.5.20"}, // and the status
	"tdx.module.mrsigner":           {docQVL, "TcbInfoVerifier.cpp, tdxModule"},
	"tdx.module.attributes":         {docQVL, "TcbInfoVerifier.cpp, tdxModule"},
	"tdx.module.identity":           {docPCS, "TCB info, tdxModuleIdentities"},
	"tdx.debug":                     {docTDX, "ATTRIBUTES"},
	"tdx.mrconfigid":                {docTDX, "TDINFO_STRUCT, MRCONFIGID"},
	"tdx.report_data":               {docTDX, "REPORTMACSTRUCT, REPORTDATA"},
	"tdx.event_log.format":          {docGHCI, "CCEL, confidential computing event log"},
	"tdx.event_log.structure":       {docTPMPage, "The form of a measured boot"},
	"tdx.event_log.replay":          {docGHCI, "CCEL, confidential computing event log"},
	"tdx.event_log.runtime":         {docTDX, "TDG.MR.RTMR.EXTEND"},
	"tdx.runtime_events":            {docMeasure, "Each register"},
	"sgx.quote.parse":               {docSGX, "appendix A, quote format"},
	"sgx.quote.signature":           {docQVL, "QuoteVerifier.cpp, 4.1.2.5.17"},
	"sgx.quote.attestation_key":     {docSGX, "appendix A, ECDSA attestation key"},
	"sgx.quote.vendor":              {docSGX, "appendix A, quote header"},
	"sgx.qe.signature":              {docQVL, "QuoteVerifier.cpp, 4.1.2.5.13"},
	"sgx.qe.binding":                {docQVL, "QuoteVerifier.cpp, 4.1.2.5.14"},
	"sgx.qe.identity":               {docQVL, "EnclaveReportVerifier.cpp, 4.1.2.9.5 to 4.1.2.9.8"},
	"sgx.tcb.":                      {docQVL, "TcbLevelCheck.cpp, 4.1.2.5.20"}, // and the status
	"sgx.report_data":               {docSGX, "appendix A, enclave report body"},

	// AMD.
	"snp.report.parse":       {docSNP, "table 23, ATTESTATION_REPORT"},
	"snp.report.host":        {docSNP, "SNP_HV_REPORT_REQ"},
	"snp.report_data":        {docSNP, "table 23, REPORT_DATA"},
	"snp.signature":          {docSNP, "table 23, SIGNATURE"},
	"snp.host_data":          {docSNP, "SNP_LAUNCH_FINISH, HOST_DATA"},
	"snp.event_log":          {docSNPPage, "What is verified"},
	"snp.chain":              {docKDS, "chapter 2, certificates"},
	"snp.cert.missing":       {docKDS, "chapter 4, KDS interface"},
	"snp.cert.parse":         {docKDS, "chapter 3, VCEK and VLEK certificates"},
	"snp.cert.signer":        {docKDS, "chapter 3, VCEK and VLEK certificates"},
	"snp.cert.product":       {docKDS, "chapter 3, VCEK and VLEK certificates"},
	"snp.cert.tcb":           {docKDS, "chapter 3, VCEK and VLEK certificates"},
	"snp.cert.chip_id":       {docKDS, "chapter 3, VCEK and VLEK certificates"},
	"snp.cert.expired":       {docX509, "6.1, Basic Path Validation"},
	"snp.cert.revoked":       {docX509, "6.3, CRL Validation"},
	"snp.crl.missing":        {docSNPPage, "Policy"},
	"snp.crl.parse":          {docX509, "5, CRL and CRL Extensions Profile"},
	"snp.crl.signature":      {docX509, "6.3, CRL Validation"},
	"snp.crl.current":        {docX509, "6.3, CRL Validation"},
	"snp.kds.":               {docKDS, "chapter 4, KDS interface"},
	"snp.collateral.source":  {docSNPPage, "What is verified"},
	"snp.tcb.reported":       {docSNP, "TCB_VERSION"},
	"snp.tcb.committed":      {docSNP, "TCB_VERSION"},
	"snp.tcb.launch":         {docSNP, "TCB_VERSION"},
	"snp.firmware.committed": {docSNP, "SNP_COMMIT"},
	"snp.id_block.":          {docSNP, "SNP_LAUNCH_FINISH, ID block"},

	// Virtual and real TPMs, and Azure's VMs.
	"tpm.ak.chain":            {docX509, "6.1, Basic Path Validation"},
	"tpm.ak.validity":         {docX509, "6.1, Basic Path Validation"},
	"tpm.ak.attributes":       {docTPM2, "TPMA_OBJECT"},
	"tpm.ak.enrolment":        {docTPM3, "TPM2_ActivateCredential"},
	"tpm.quote.format":        {docTPM2, "TPMS_ATTEST"},
	"tpm.quote.type":          {docTPM2, "TPMS_ATTEST"},
	"tpm.quote.signature":     {docTPM2, "TPMT_SIGNATURE"},
	"tpm.quote.extra_data":    {docTPM3, "TPM2_Quote"},
	"tpm.quote.pcr_selection": {docTPM2, "TPMS_QUOTE_INFO"},
	"tpm.quote.pcr_digest":    {docTPM2, "TPMS_QUOTE_INFO"},
	"tpm.event_log.format":    {docPFP, "10.2, event log"},
	"tpm.event_log.structure": {docTPMPage, "The form of a measured boot"},
	"tpm.event_log.replay":    {docPFP, "10.2, event log"},
	"tpm.runtime_events":      {docMeasure, "Each register"},
	"azure.":                  {docTPMPage, "Azure confidential VMs"},
	"azure.tdx.report":        {docTDX, "TDREPORT_STRUCT"},

	// NVIDIA.
	"gpu.":                  {docGPU, "Checks"},
	"gpu.collateral.parse":  {docGPU, "In a worker's evidence"},
	"gpu.collateral.source": {docGPU, "In a worker's evidence"},
	"gpu.chain":             {docX509, "6.1, Basic Path Validation"},
	"gpu.signature":         {docSPDM, "GET_MEASUREMENTS and MEASUREMENTS"},
	"gpu.nonce":             {docSPDM, "GET_MEASUREMENTS and MEASUREMENTS"},
	"gpu.parse":             {docSPDM, "GET_MEASUREMENTS and MEASUREMENTS"},
	"gpu.fwid":              {docDICE, "TCB info evidence extension"},
	"gpu.ocsp":              {docOCSP, "3.2, Signed Response Acceptance Requirements"},
	"gpu.ocsp.":             {docOCSP, "4.2, Response Syntax"},
	"gpu.rim.ocsp":          {docOCSP, "3.2, Signed Response Acceptance Requirements"},
	"gpu.rim.driver":        {docGPURIM, "One document"},
	"gpu.rim.vbios":         {docGPURIM, "One document"},
	"gpu.rim.parse":         {docRIM, "RIM format"},
	"gpu.rim.digest":        {docXML, "3.2, Core Validation"},
	"gpu.rim.signature":     {docXML, "3.2, Core Validation"},
	"gpu.rim.chain":         {docX509, "6.1, Basic Path Validation"},
	"gpu.rim.validity":      {docX509, "6.1, Basic Path Validation"},
	"gpu.rim.not_found":     {docGPURIM, "What goes wrong"},
	"rim.parse":             {docRIM, "RIM format"},
	"rim.digest":            {docXML, "3.2, Core Validation"},
	"rim.signature":         {docXML, "3.2, Core Validation"},
	"rim.chain":             {docX509, "6.1, Basic Path Validation"},
	"rim.validity":          {docX509, "6.1, Basic Path Validation"},
	"ocsp.":                 {docOCSP, "4.2, Response Syntax"},
	"ocsp.nonce":            {docNonce, "2, OCSP Extensions"},
}

// References returns the whole table, for readers of verdicts that do not have
// it. An ID that ends in a dot stands for all that begin with it; the longest
// counts.
func References() map[string]Reference { return maps.Clone(references) }

// ReferenceOf returns what a check follows; the zero value for an ID that no
// check has.
func ReferenceOf(id string) Reference {
	if r, ok := references[id]; ok {
		return r
	}
	for n := strings.LastIndexByte(id, '.'); n > 0; n = strings.LastIndexByte(id[:n], '.') {
		if r, ok := references[id[:n+1]]; ok {
			return r
		}
	}
	return Reference{}
}

// Cite writes into each check what it follows. It is called where checks leave
// an appraisal, and where they are read from a verdict: whoever makes one need
// not know, and whoever signs one need not say.
func Cite(checks []Check) {
	for i := range checks {
		r := ReferenceOf(checks[i].ID)
		checks[i].Document, checks[i].Section = r.Document, r.Section
	}
}
