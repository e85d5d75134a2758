"""A trainer that only counts."""


class Loggers:
    def log_val(self, values):
        raise AssertionError('a validation pass saved its checkpoints')


class BERTTrainer:
    def __init__(self, args, model, train_loader, val_loader, test_loader, export_root):
        self.train_loader, self.val_loader = train_loader, val_loader
        self.logger_service = Loggers()

    def train_one_epoch(self, epoch, seen):
        for (rows,) in self.train_loader:
            seen += len(rows)
        return seen

    def validate(self, epoch, seen):
        for _ in self.val_loader:
            pass
        self.logger_service.log_val({'NDCG@10': 0.5})
