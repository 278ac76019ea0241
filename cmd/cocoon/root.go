package main

import (
	"github.com/spf13/cobra"
)

// newRootCmd assembles the command tree; each verb lives in its own file.
func newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:           "cocoon",
		Short:         "confidential inference: build, measure, verify, serve, pay",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newVerifyCmd(), newPolicyCmd(), newVerdictCmd(), newAppraiseCmd(), newCollateralCmd(), newTCBCmd(), newDoctorCmd(), newGPUCmd(), newEventlogCmd(), newMeasureCmd(), newManifestCmd(),
		newLogCmd(), newReleaseCmd(), newAuditCmd(), newImageCmd(), newVMCmd(), newHostCmd(), newIdleCmd(), newEarningsCmd(), newProxyCmd(), newChatCmd(), newDemoCmd(), newDevnetCmd(), newWalletCmd(), newRegistryCmd(), newJobCmd(), newWorkerCmd(), newReceiptCmd(), newModelCmd())
	return root
}
