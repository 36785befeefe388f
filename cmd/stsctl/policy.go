package main

import "github.com/spf13/cobra"

// newPolicy has what there is to do with rules besides applying them.
func newPolicy(c *cli, commands ...*cobra.Command) *cobra.Command {
	commands = append(commands,
		newPolicyTest(c), newPolicyLint(c), newPolicyCan(c), newPolicyWhoCan(c), newPolicyReplay(c),
		newPolicyHistory(c), newPolicyRollback(c), newPolicyDiff(c), newPolicyPromote(c), newPolicyDiscard(c))
	return group("policy", "Try out, roll out and roll back resources",
		`Test rules without a server, see what a change of the resources does before and
after it is in force, and go back if it does the wrong thing.`, commands...)
}
