package server

import (
	"io"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// TestEveryAdminMethodIsRecorded calls every method of the admin interface: one that
// changes something leaves a record that says who did it, from where; one that only
// reads leaves none; and one that is refused leaves one whatever it is [G-08].
func TestEveryAdminMethodIsRecorded(t *testing.T) {
	f := newFixture(t)
	audience := func(name string) []*stsv1.Resource {
		return []*stsv1.Resource{{Kind: &stsv1.Resource_Audience{Audience: &stsv1.Audience{Name: name}}}}
	}
	shadow := &stsv1.ApplyRequest{Resources: audience("shadow"), Shadow: true, Why: "a test"}
	if err := f.registered.Create(t.Context(), sts.Registration{Name: "agents~a", Template: "agents", Metadata: sts.ClientMetadata{AuthMethod: sts.SecretBasic}}, 1); err != nil {
		t.Fatal(err)
	}
	// In an order in which each finds what it needs. The answer is not of interest.
	writes := []struct {
		method  string
		request proto.Message
		event   sts.Event
	}{
		{stsv1.AdminService_Apply_FullMethodName, &stsv1.ApplyRequest{Resources: audience("a")}, sts.EventChange},
		{stsv1.AdminService_ApplyMany_FullMethodName, &stsv1.ApplyRequest{Resources: audience("b")}, sts.EventChange},
		{stsv1.AdminService_PutResource_FullMethodName, &stsv1.PutResourceRequest{Kind: "Audience", Name: "c", Resource: audience("c")[0]}, sts.EventChange},
		{stsv1.AdminService_DeleteResource_FullMethodName, &stsv1.DeleteResourceRequest{Kind: "Audience", Name: "c"}, sts.EventChange},
		{stsv1.AdminService_Rollback_FullMethodName, &stsv1.RollbackRequest{To: 2, Why: "a test"}, sts.EventChange},
		{stsv1.AdminService_Apply_FullMethodName, shadow, sts.EventChange},
		{stsv1.AdminService_PromoteShadow_FullMethodName, &stsv1.PromoteShadowRequest{Why: "a test"}, sts.EventChange},
		{stsv1.AdminService_Apply_FullMethodName, &stsv1.ApplyRequest{Resources: audience("d"), Shadow: true, Why: "a test"}, sts.EventChange},
		{stsv1.AdminService_DiscardShadow_FullMethodName, &stsv1.DiscardShadowRequest{Why: "a test"}, sts.EventChange},
		{stsv1.AdminService_RotateClientSecret_FullMethodName, &stsv1.RotateClientSecretRequest{Name: "web"}, sts.EventChange},
		{stsv1.AdminService_RotateKey_FullMethodName, &stsv1.RotateKeyRequest{Set: "default"}, sts.EventAdmin},
		{stsv1.AdminService_RevokeKey_FullMethodName, &stsv1.RevokeKeyRequest{Kid: "k1"}, sts.EventRevoke},
		{stsv1.AdminService_Revoke_FullMethodName, &stsv1.RevokeRequest{Kind: "subject", Value: "x", Reason: "a test"}, sts.EventRevoke},
		{stsv1.AdminService_DeleteRegisteredClient_FullMethodName, &stsv1.DeleteRegisteredClientRequest{Name: "agents~a"}, sts.EventRegister},
		{stsv1.AdminService_Backup_FullMethodName, &stsv1.BackupRequest{}, sts.EventAdmin},
	}
	invoke := func(admin bool, method string, request proto.Message) error {
		ctx := t.Context()
		if admin {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+f.admin)
		}
		client := stsv1.NewAdminServiceClient(f.conn)
		switch method {
		case stsv1.AdminService_ApplyMany_FullMethodName:
			stream, err := client.ApplyMany(ctx)
			if err == nil {
				_ = stream.Send(request.(*stsv1.ApplyRequest)) // what is wrong, the answer says
				_, err = stream.CloseAndRecv()
			}
			return err
		case stsv1.AdminService_Backup_FullMethodName:
			stream, err := client.Backup(ctx, &stsv1.BackupRequest{})
			for err == nil {
				_, err = stream.Recv()
			}
			if err == io.EOF {
				err = nil
			}
			return err
		}
		// Fields of another message are not known to this one, and not looked at.
		return f.conn.Invoke(ctx, method, request, &stsv1.ListKeysRequest{}, grpc.StaticMethod())
	}
	var covered []string
	for _, w := range writes {
		covered = append(covered, w.method)
		t.Run("G-08 "+w.method, func(t *testing.T) {
			before := len(f.audit.all())
			if err := invoke(true, w.method, w.request); err != nil {
				t.Fatal(err)
			}
			records := f.audit.all()[before:]
			if len(records) != 1 {
				t.Fatalf("%d records", len(records))
			}
			r := records[0]
			if r.Event != w.event || r.Outcome != "allow" || r.Decision == "" || r.Peer == "" || recordedBy(r) != "admin token" {
				t.Errorf("%+v by %q", r, recordedBy(r))
			}
		})
	}
	for method, a := range accessTo {
		if a.who == writers && !slices.Contains(covered, method) {
			t.Errorf("%s changes something, and this test does not know what it records", method)
		}
		if a.who == readers {
			before := len(f.audit.all())
			_ = invoke(true, method, &stsv1.ListKeysRequest{}) // an answer, or that there is nothing of no name
			if n := len(f.audit.all()); n != before {
				t.Errorf("%s reads, and leaves %d records", method, n-before)
			}
		}
	}
	// As many are recorded at once as there are in refusalsAtOnce; then it is a matter
	// of time, so a new server has the rest.
	for n, method := 0, ""; n < len(writes); n++ {
		method = writes[n].method
		before := len(f.audit.all())
		if err := invoke(false, method, writes[n].request); err == nil {
			t.Errorf("%s by nobody", method)
		}
		records := f.audit.all()[before:]
		if len(records) != 1 || records[0].Event != sts.EventAdmin || records[0].Outcome != "deny" || records[0].Admin.Action != method || records[0].Error != sts.Unauthenticated {
			t.Errorf("%s by nobody: %+v", method, records)
		}
	}
}

// recordedBy is who a record says did it.
func recordedBy(r sts.Record) string {
	switch {
	case r.Change != nil:
		return r.Change.By.Name
	case r.Admin != nil:
		return r.Admin.By.Name
	case r.Registration != nil && r.Registration.By != nil:
		return r.Registration.By.Name
	case r.Revocation != nil:
		return r.Revocation.By
	}
	return ""
}
